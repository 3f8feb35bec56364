"""Answers with measured numbers in them, and the pages that are written from results files."""

import tomllib
import types

import pytest

from common import plots
from common.cookbook import answers, catalogue, errors, pages, results

RECORDED = {
    "figure": {"name": "accuracy", "better": "higher", **results.summary([0.90, 0.91, 0.92])},
    "metrics": {"accuracy": 0.91, "tfidf_accuracy": 0.9},
    "baseline": {"name": "TF-IDF", "value": 0.9},
    "published": {"value": 0.95, "source": "a paper"},
    "tolerance": 0.0,
    "seconds": 61.0,
    "cpu_seconds": 30.0,
    "seeds": [0, 1, 2],
    "variants": {
        "far": {"metrics": {"accuracy": 0.5}, "seconds": 1.0, "seeds": [0]},
        "near": {"metrics": {"accuracy": 0.9}, "seconds": 1.0, "seeds": [0]},
        "near, three seeds": {
            "metrics": {"accuracy": 0.885},
            "metrics_by_seed": {"accuracy": [0.884, 0.885, 0.886]},
            "seconds": 1.0,
            "seeds": [0, 1, 2],
        },
        "nearer, three seeds": {
            "metrics": {"accuracy": 0.894},
            "metrics_by_seed": {"accuracy": [0.893, 0.894, 0.895]},
            "seconds": 1.0,
            "seeds": [0, 1, 2],
        },
    },
}


def does_it_matter(sentence):
    return {"Does it matter?": sentence}


def test_answers_are_filled_in_from_metrics_variants_and_seconds():
    sentence = "{accuracy:.3f} with it, {far/accuracy:.1%} without, in {seconds:.0f} seconds"
    assert answers.fill(does_it_matter(sentence), RECORDED) == {
        "Does it matter?": "0.910 with it, 50.0% without, in 61 seconds"
    }
    for asked, recorded in ((sentence, None), ("{accuracy:.3f} with it, {variant to come/accuracy:.1%}", RECORDED)):
        assert answers.fill(does_it_matter(asked), recorded) == {"Does it matter?": "not measured yet"}


@pytest.mark.parametrize("field", ["{loss:.3f}", "{far/loss:.3f}", "{far/cpu_seconds:.0f}"])
def test_a_number_that_was_not_measured_is_an_error(field):
    with pytest.raises(errors.RecipeError, match="was not measured"):
        answers.fill(does_it_matter(field), RECORDED)


@pytest.mark.parametrize(
    "sentence, complaint",
    [
        ("{accuracy:.3f} with it, {far/accuracy:.3f} without", None),
        ("{accuracy:.3f} with it, {near/accuracy:.3f} without", "claims a difference"),
        ("{accuracy:.3f} and {near/accuracy:.3f}: no difference beyond the spread of the seeds", None),
        ("{accuracy:.3f} and {far/accuracy:.3f}: no difference beyond the spread of the seeds", "no variant"),
        # It is off by less than three standard deviations of the run, 0.03; its own three seeds settle it.
        ("{accuracy:.3f} with it, {near, three seeds/accuracy:.3f} without", None),
        # Three standard errors of the difference are 0.017; with the seeds' population variance they would be 0.014.
        ("{accuracy:.3f} with it, {nearer, three seeds/accuracy:.3f} without", "claims a difference"),
        ("Yes, it helps a lot.", "without a measured number"),
        ("not measured yet", None),
        ("0.903 with it, {far/accuracy:.3f} without", "typed number 0.903"),
        ("{accuracy:.3f} after 200 steps, which is 12% more", "typed number 12%"),
    ],
)
def test_an_answer_may_claim_no_more_than_the_figures_show(sentence, complaint):
    found = answers.complaints(does_it_matter(sentence), RECORDED)
    assert (complaint is None) == (not found) and (not complaint or complaint in found[0])


def test_a_recipe_without_questions_is_told_where_they_belong(tmp_path):
    entry = catalogue.Entry("chapter.name", tmp_path / "name.py")
    for text, message in ((None, "has no table"), ("[other]", "has no table"), ("[name", "not valid TOML")):
        if text:
            (tmp_path / "answers.toml").write_text(text, encoding="utf-8")
        with pytest.raises(errors.RecipeError, match=message):
            print(entry.answers)


def test_every_table_of_questions_belongs_to_a_recipe():
    for chapter, entries in pages.chapters().items():
        text = (catalogue.ROOT / "recipes" / chapter / "answers.toml").read_text(encoding="utf-8")
        assert set(tomllib.loads(text)) == {entry.path.stem for entry in entries}


def test_pages_and_readme_are_those_that_the_tool_would_write():
    for chapter in pages.chapters():
        page = catalogue.ROOT / "recipes" / chapter / "README.md"
        assert page.read_text(encoding="utf-8") == pages.chapter_page(chapter), "run `python -m recipes table`"
    text = (catalogue.ROOT / "README.md").read_text(encoding="utf-8")
    assert pages.readme(text) == text, "run `python -m recipes table`"


def test_a_page_marks_what_loses_to_its_baseline_and_misses_the_published_figure(monkeypatch):
    entry = catalogue.entry("vision.lenet")
    monkeypatch.setattr(catalogue.Entry, "results", {**entry.results, **RECORDED, "variants": {}})
    assert "✗" in pages.compact(entry) and "†" not in pages.compact(entry)
    assert "✗ not reached" in "\n".join(pages.comparison(entry))
    assert "≈ no clear difference from the network" in "\n".join(pages.comparison(entry))
    stronger = {**RECORDED, "baseline": {"name": "TF-IDF", "value": 0.99}, "published": {"value": 0.2, "source": "it"}}
    monkeypatch.setattr(catalogue.Entry, "results", {**stronger, "variants": {}})
    assert "✓" in pages.compact(entry) and "✓ passed" in "\n".join(pages.comparison(entry))
    assert "✗ better than the network" in "\n".join(pages.comparison(entry)) and pages.compact(entry).endswith("†")
    one_seed = {**RECORDED, "figure": {**RECORDED["figure"], **results.summary([RECORDED["figure"]["mean"]])}}
    missed = RECORDED["published"]["value"] - RECORDED["figure"]["mean"]
    for tolerance, mark in ((0.9 * missed, "✗"), (1.1 * missed, "≈")):
        monkeypatch.setattr(catalogue.Entry, "results", {**one_seed, "tolerance": tolerance, "variants": {}})
        assert mark in pages.compact(entry)


def test_a_tall_picture_takes_half_of_the_width(tmp_path):
    for name, size, expected in (("tall", (2, 3), "50%"), ("wide", (3, 2), "100%"), ("square", (2, 2), "100%")):
        figure = plots.new(*size)[0]
        figure.savefig(tmp_path / f"{name}.png", bbox_inches=None)
        assert pages.width(tmp_path / f"{name}.png") == expected


def test_generative_recipes_stand_side_by_side_from_the_nearest_to_the_farthest():
    def measured(name, distance):
        figures = {"distance": distance, "precision": 0.9, "coverage": 0.5, "rarest_digit": 0.08}
        bounds = {"training_distance": 0.05, "mixture_distance": 0.5, "gaussian_distance": 45.7}
        bounds |= {f"{each}_{share}": 0.9 for each in ("training", "mixture") for share in list(figures)[1:]}
        metrics = {**figures, **(bounds if name == "near" else {})}  # Older records may lack some.
        return types.SimpleNamespace(name=f"generative.{name}", results={"metrics": metrics, "seconds": 60.0})

    lines = pages.samples([measured("far", 3.0), types.SimpleNamespace(results=None), measured("near", 0.7)])
    assert [line.split(" | ")[:2] for line in lines if line.startswith("| ")][1:] == [
        ["| training images", "0.05"],
        ["| a mixture of Gaussians of the pixels", "0.50"],
        ["| [near](#near)", "0.70"],
        ["| [far](#far)", "3.00"],
        ["| a Gaussian fitted to the pixels", "45.70"],
    ]
    assert pages.samples([measured("near", 1.0)]) == []
