"""Tables of any shop in, WebDataset shards out; also the built-in catalogue and encoders."""
