"""The labelling page and its server: label images in a browser, with SAM and trained models as assistants.

``server`` starts it, ``app`` holds the routes and ``safety`` guards them; ``project`` keeps the dataset and its labels
(``annotations`` those of one image, ``wire`` their JSON), ``tiles`` cuts images up for the page, ``assistant`` asks SAM and
trained models, ``jobs`` trains. ``static/`` is the page itself, plain ES modules.
"""
