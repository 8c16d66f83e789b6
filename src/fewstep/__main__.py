"""`python -m fewstep` and `accelerate launch -m fewstep`."""

from fewstep.cli.main import main

if __name__ == "__main__":
    main()
