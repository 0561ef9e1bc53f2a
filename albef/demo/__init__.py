"""Web page on which visitors try the models (``albef demo``)."""
