"""Pictures that every run draws: learning curves, and the scores of a search."""

from matplotlib import figure

TRAINING, VALIDATION, MUTED = "#9aa5b1", "#c2410c", "#cbd5e1"


def new(width=7.0, height=4.0, rows=1, columns=1, **options):
    """Returns a figure and its axes, without pyplot's global state: nothing stays in memory."""
    picture = figure.Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes = picture.subplots(rows, columns, **options)
    return picture, axes


def plain(axes):
    """Takes the frame's upper and right lines away."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def curve(histories, monitor):
    """Loss and monitored metric by epoch.

    histories: {stage: {metric: one value an epoch}}; the fits of a recipe, in order.
    monitor: name of the validation metric that a search compares.
    """
    names = ["loss"] if monitor == "val_loss" else ["loss", monitor.removeprefix("val_")]
    picture, axes = new(6.0 * len(names), 3.8, columns=len(names), squeeze=False)
    stages = {stage: history for stage, history in histories.items() if history}
    for ax, name in zip(axes[0], names):
        plain(ax).set(xlabel="epoch", ylabel=name.replace("_", " "))
        for index, (stage, history) in enumerate(stages.items()):
            fade = 1.0 if len(stages) == 1 else 0.25 + 0.75 * (index + 1) / len(stages)
            for metric, colour, part in ((name, TRAINING, "training"), (f"val_{name}", VALIDATION, "validation")):
                if metric in history:
                    epochs = range(1, len(history[metric]) + 1)
                    label = part if stage == list(stages)[-1] else None
                    ax.plot(epochs, history[metric], color=colour, alpha=fade, label=label, marker=".")
        ax.legend(frameon=False)
        ax.xaxis.get_major_locator().set_params(integer=True)
    return picture


def search(scores, better, label):
    """Every trial's score in order, the best so far as a line.

    scores: one a trial, None where it failed.
    better: "higher" or "lower".
    """
    choose = max if better == "higher" else min
    picture, ax = new()
    done = [(trial, score) for trial, score in enumerate(scores) if score is not None]
    best = [choose(score for _, score in done[: count + 1]) for count in range(len(done))]
    ax.step([trial for trial, _ in done], best, where="post", color=VALIDATION, label="best so far")
    ax.plot(*zip(*done), "o", color=TRAINING, label="trial (0 has the defaults)")
    plain(ax).set(xlabel="trial", ylabel=label.replace("_", " "))
    ax.legend(frameon=False)
    ax.xaxis.get_major_locator().set_params(integer=True)
    return picture


def save(picture, path):
    """Writes a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path)
