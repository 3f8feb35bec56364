"""Plots: axes without global state, heat maps and grids, the learning curve of a run and the scores of a search."""

import numpy as np
from matplotlib import figure

TRAINING, VALIDATION, MUTED = "#9aa5b1", "#c2410c", "#cbd5e1"


def new(width=7.0, height=4.0, rows=1, columns=1, **options):
    """Returns a figure and its axes, without pyplot's global state, so that no figure stays in memory."""
    picture = figure.Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes = picture.subplots(rows, columns, **options)
    return picture, axes


def plain(axes):
    """Removes the top and right lines of the frame."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def heat_map(axes, values, rows, columns, colours="Oranges"):
    """Draws values (rows, columns) between 0 and 1 as coloured cells, with a label for each row and column."""
    axes.imshow(values, cmap=colours, vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return axes


def image_grid(images, titles, columns=10, heading="", colours="gray_r"):
    """Returns a figure of images (N, height, width) or (N, height, width, channels), each below its title."""
    rows = max(1, -(-len(images) // columns))
    picture, axes = new(1.1 * columns, 0.5 + 1.35 * rows, rows, columns, squeeze=False)
    picture.suptitle(heading)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, title in zip(axes.flat, images, titles):
        ax.imshow(image, cmap=colours)
        ax.set_title(title, fontsize=9)
    return picture


def mosaic(images, columns, heading=""):
    """Returns a figure of grey images (N, height, width, 1), 0 = white and 1 = black, side by side without gaps."""
    rows = -(-len(images) // columns)
    height, width = images[0].shape[:2]
    cells = np.zeros((rows * columns, height, width))
    cells[: len(images)] = np.reshape(images, (-1, height, width))
    tiles = cells.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    picture, ax = new(7.0, 0.4 + 7.0 * tiles.shape[0] / tiles.shape[1])
    ax.imshow(tiles, cmap="gray_r", vmin=0.0, vmax=1.0)
    ax.set_axis_off()
    ax.set_title(heading)
    return picture


def by_labels(counts, curves, colours):
    """Returns a figure of accuracy on validation by the number of labels: points, and lines through their means.

    counts: (N,), the number of labels in each training subset. curves: {name: accuracies (N,) between 0 and 1}.
    """
    picture, ax = new(8, 4.5)
    numbers = np.unique(counts)
    for (name, shares), colour in zip(curves.items(), colours, strict=True):
        points = 100 * np.asarray(shares)
        ax.plot(numbers, [points[np.equal(counts, number)].mean() for number in numbers], color=colour, label=name)
        ax.plot(counts, points, ".", color=colour)
    plain(ax).set(xscale="log", xlabel="labelled training examples", ylabel="accuracy on validation (%)")
    ax.set_xticks(numbers, [f"{number:,}" for number in numbers])
    ax.legend(frameon=False)
    return picture


def curve(history, monitor):
    """Loss and monitored metric by epoch, on training and validation data.

    history: {metric: one value per epoch}.
    monitor: name of the validation metric that a search compares.
    """
    names = ["loss"] if monitor == "val_loss" else ["loss", monitor.removeprefix("val_")]
    picture, axes = new(6.0 * len(names), 3.8, columns=len(names), squeeze=False)
    for ax, name in zip(axes[0], names):
        plain(ax).set(title=f"{name.replace('_', ' ')} by epoch", xlabel="epoch", ylabel=name.replace("_", " "))
        for metric, colour, part in ((name, TRAINING, "training"), (f"val_{name}", VALIDATION, "validation")):
            if metric in history:
                values = history[metric]
                ax.plot(range(1, len(values) + 1), values, color=colour, label=part, marker=".")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False)
    return picture


def search(scores, better, label):
    """Every trial's score in order, with the best so far as a line.

    scores: one per trial, None where it failed.
    better: "higher" or "lower".
    """
    choose = max if better == "higher" else min
    picture, ax = new()
    done = [(trial, score) for trial, score in enumerate(scores) if score is not None]
    best = [choose(score for _, score in done[: count + 1]) for count in range(len(done))]
    ax.step([trial for trial, _ in done], best, where="post", color=VALIDATION, label="best so far")
    ax.plot(*zip(*done), "o", color=TRAINING, label="trial (0 uses the defaults)")
    plain(ax).set(xlabel="trial", ylabel=label.replace("_", " "))
    ax.legend(frameon=False)
    ax.xaxis.get_major_locator().set_params(integer=True)
    return picture
