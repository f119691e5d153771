"""The explorer: a page on this machine over a results database and the image sets beside it."""
