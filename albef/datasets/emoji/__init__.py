"""Built-in synthetic data set: images composed of emoji sprites, with matching text.

`lexicon` reads the sprites, `scenes` samples the content of images, `render` draws them. `captions`, `questions`,
`hypotheses`, `pairs` and `referring` generate text, from which `lists` builds the official lists. `world` holds the
scenes of all splits.
"""
