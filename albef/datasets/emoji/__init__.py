"""The built-in world: small pictures composed of emoji sprites, with text that is true of them.

`lexicon` names the sprites, `scenes` draws what a picture holds, `render` paints it, `captions`, `questions`,
`hypotheses`, `pairs` and `referring` say things about it, `world` writes the official lists.
"""
