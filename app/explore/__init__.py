"""Explorer: a local web page for a results database and the image sets beside it."""
