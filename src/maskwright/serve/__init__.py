"""The labelling page and its server: label images in a browser, with SAM and trained models as assistants; and the same for programs.

::

    server               starts either server; safety guards it
    app                  puts the addresses together; endpoints describes them, with the shapes of schemas
    labelling            the addresses of a dataset that is labelled
    predicting           those of a server without one: images are sent (sent_images)
    questions            those that both have: SAM's masks, the agent's corrections
    label_studio         Label Studio's protocol, in either; label_studio_tasks reads what was drawn there
    project              the dataset and its labels: opening, annotations (one image), label_conversion, wire (their JSON)
    models, assistant    SAM and the trained models, in a thread: sam_answers, canvas_masks
    tiles, jobs          images cut up for the page; trainings
    static/              the page itself, plain ES modules, and the page of the API
"""
