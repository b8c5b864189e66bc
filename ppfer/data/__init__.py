"""Data sets: found and labelled (`index`), dealt into parts (`split`), decoded once (`store`)."""
