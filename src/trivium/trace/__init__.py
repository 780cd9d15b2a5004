"""From a reply back to the documents that a model was trained on: suffix arrays over token shards, and what is found in them."""
