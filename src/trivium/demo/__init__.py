"""What the quickstart reads: Python's own documentation, made-up tasks, refusals. No part of the library needs it to work
on the data of others."""
