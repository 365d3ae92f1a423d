"""The Ray Data stages and the file contracts between them."""
