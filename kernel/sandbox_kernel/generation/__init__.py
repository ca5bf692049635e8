"""Code from plain words: models and their fallback chain, what they are told of the notebook, what becomes of answers.

Nothing here is imported before a command of this family is used.
"""
