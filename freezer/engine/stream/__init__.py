"""The engine stream: the output of a command, or standard input."""
