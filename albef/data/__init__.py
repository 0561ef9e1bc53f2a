"""Record schemas, image decoding, augmentation, tokenization and data loading."""
