"""A network with what is known about it: opened, sampled, adapted and saved. What is peculiar to one kind of network is in families/."""
