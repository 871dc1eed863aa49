"""The findings of a study, outside of its command."""


def reported(folder, findings):
    """The text of findings, whose figures are drawn into a folder."""
    text, figures = findings
    for name, draw in figures.items():
        draw(folder / name)
    return text
