"""The commands: each parses its words, makes one call of the library, and prints."""
