"""Writes a recipe as a stand-alone file: its own code, below it what it uses from `common`, and a plain main."""

import ast
import importlib.util
import json
import os
import pathlib
import re
import shutil
import sys
import textwrap

from common import files
from common.cookbook import catalogue, errors

COOKBOOK_ONLY = ("PROMISE", "VARIANTS", "PINNED")  # Read only by the cookbook; a copy has none of them.
DISTRIBUTIONS = {  # Import names that need lines of requirements.txt other than the one of their own name.
    "sklearn": ["scikit-learn"],
    "skimage": ["scikit-image"],
    "keras": ["keras", "tensorflow"],  # The backend, which a recipe need not import itself.
    "keras_tuner": ["keras-tuner", "tensorboard"],
    "tensorflow_datasets": ["tensorflow-datasets", "importlib_resources"],
}
DATA_IMPORTS = {"universal_dependencies": "conllu"}  # What TFDS imports to prepare a data set.

MAIN = '''
def main():
    """Trains, saves, evaluates, and prints the figures."""
    hp = configure(keras_tuner.HyperParameters())
    ranges = "\\n".join(f"  {{each.name}}={{each.default}}  ({{allowed(each)}})" for each in hp.space)
    parser = argparse.ArgumentParser(epilog=ranges, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="name=value", help="see below")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="run on a few examples, in seconds")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("{stem}"), help="output directory")
    options = parser.parse_args()
    try:
        hp.values.update(TINY if options.tiny else {{}})
        set_values(hp, options.set)
        keras.utils.set_random_seed(options.seed)  # Here only to refuse, at once, what is no seed.
        options.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.out).close()
    except (ValueError, OSError) as error:
        parser.error(str(error))
{prepare}    history = []
    log = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: history.append({{"model": log.model.name, **logs}}))
    trained = train(hp, options.seed, [log])
{save}    record = {{"hyperparameters": hp.values, "seed": options.seed, "history": history}}
    (options.out / "run.json").write_text(json.dumps(record, indent=2, default=float), encoding="utf-8")
    figures = evaluate(trained, hp)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2, default=float), encoding="utf-8")
    print("\\n".join(f"{{name:24}} {{value:.6g}}" for name, value in figures.items()))
{show}    print(f"Files in {{options.out}}")


if __name__ == "__main__":
    main()
'''
DATA = "DATA = {names}  # Prepared before `train` sets the seed, since that changes the random state."
PREPARE = """    for name in DATA:
        tfds.builder(name).download_and_prepare()
"""
SAVE_MODELS = """    for name, model in (trained if isinstance(trained, dict) else {"model": trained}).items():
        keras.Model(model.inputs, model.outputs, name=model.name).save(options.out / f"{name}.keras")
"""
SAVE = """    save(trained, options.out)
"""
SAVE_ASSETS = """    for name, text in assets(hp).items():
        (options.out / name).write_text(text, encoding="utf-8")
"""
SAVE_SHOWN = """    for name, shown in show(trained, hp).items():
        if isinstance(shown, str):
            print(f"\\n{shown}")
        else:
            shown.savefig(options.out / f"{name}.png")
"""
SEARCH = """\
Search its hyperparameters with KerasTuner:

    class Search(keras_tuner.RandomSearch):
        def run_trial(self, trial):
            {score}

    space = keras_tuner.HyperParameters()
    for name in {pinned}:
        space.Fixed(name, configure(keras_tuner.HyperParameters())[name])
    Search(objective=keras_tuner.Objective("{metric}", "{direction}"), hyperparameters=configure(space)).search()
"""


class Module:
    """The top-level statements of one source file."""

    def __init__(self, path):
        self.path = path
        self.lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        self.tree = ast.parse("".join(self.lines))
        self.definitions = {}  # {name: the statements that define it, or add to it}
        self.imports = {}  # {name: import statement}
        self.siblings = {}  # {name: module of `common` that it comes from}
        for node in self.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self.definitions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign):
                for name in bound_names(node):
                    self.definitions.setdefault(name, []).append(node)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                self.note_import(node)

    def note_import(self, node):
        """Raises RecipeError for an import of `common` that is not of the form `from common.module import name`."""
        for alias in node.names:
            module = getattr(node, "module", alias.name)
            if module.split(".")[0] == "common" and (alias.asname or "." not in module or isinstance(node, ast.Import)):
                raise errors.RecipeError(f"{self.path} imports {alias.name}: write `from common.module import name`")
            name = alias.asname or alias.name.split(".")[0]
            renamed = f" as {alias.asname}" if alias.asname else ""
            if isinstance(node, ast.Import) or node.module == "common.datasets":
                self.imports[name] = f"import {alias.name}{renamed}"
            elif node.module.startswith("common."):
                self.siblings[alias.name] = node.module.removeprefix("common.")
            else:
                self.imports[name] = f"from {node.module} import {alias.name}{renamed}"

    def source(self, node):
        """The statement's text, with its decorators and the comment lines right above it."""
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))]) - 1
        while first > 0 and self.lines[first - 1].startswith("#"):
            first -= 1
        return "".join(self.lines[first : node.end_lineno]).rstrip()

    def body(self):
        """Everything except imports, docstring, main guard and what only the cookbook reads."""
        lines = list(self.lines)
        for node in self.tree.body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_cookbook = isinstance(node, ast.Assign) and set(bound_names(node)) <= set(COOKBOOK_ONLY)
            if is_docstring or is_cookbook or isinstance(node, (ast.Import, ast.ImportFrom, ast.If)):
                lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
        return re.sub(r"\n{4,}", "\n\n\n", "".join(lines)).strip()


def bound_names(assignment):
    """The names that an assignment binds; `shuffle.counters = []` adds to `shuffle`."""
    parts = (part for target in assignment.targets for part in ast.walk(target))
    return [part.id for part in parts if isinstance(part, ast.Name)]


def names_in(nodes):
    """Every name that the statements use, including those inside f-strings."""
    return {each.id for node in nodes for each in ast.walk(node) if isinstance(each, ast.Name)}


def gather(recipe):
    """What the recipe uses from `common`, and what that uses in turn.

    Returns:
        The texts of all definitions, in the order of their files, and {name: import statement} that they need.
    """
    modules, wanted = {}, set()

    def visit(module_name, name):
        if (module_name, name) in wanted:
            return
        wanted.add((module_name, name))
        if module_name not in modules:
            modules[module_name] = Module(catalogue.ROOT / "common" / f"{module_name}.py")
        module = modules[module_name]
        if name not in module.definitions:
            raise errors.RecipeError(f"{module.path} defines no {name!r}")
        for used in names_in(module.definitions[name]):
            if used in module.siblings:
                visit(module.siblings[used], used)
            elif used in module.definitions:
                visit(module_name, used)

    for name, module_name in recipe.siblings.items():
        visit(module_name, name)
    texts, imports = [], {}
    for module_name, module in sorted(modules.items()):
        nodes = [
            node
            for node in module.tree.body
            if any(node in module.definitions[name] for other, name in wanted if other == module_name)
        ]
        texts += [module.source(node) for node in nodes]
        imports |= {name: module.imports[name] for name in names_in(nodes) if name in module.imports}
    return texts, imports


def shared_settings():
    """The source of the functions that parse `--set`, in the cookbook and in every copy."""
    settings = Module(catalogue.ROOT / "common" / "cookbook" / "settings.py")
    return [settings.source(node) for name in ("allowed", "set_values") for node in settings.definitions[name]]


def import_lines(statements):
    """Sorted import statements: the standard library, then the rest."""

    def is_standard(line):
        return line.split()[1].split(".")[0] in sys.stdlib_module_names

    ordered = sorted(statements, key=lambda line: (line.startswith("from"), line))
    groups = [[line for line in ordered if is_standard(line) == standard] for standard in (True, False)]
    return "\n\n".join("\n".join(group) for group in groups if group)


def requirements(code, data=()):
    """The lines of requirements.txt that the code's imports and its data sets need."""
    lines = (catalogue.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    known = {re.split(r"[<>=!~\s]", line)[0]: line.split("#")[0].strip() for line in lines if line[:1].isalpha()}
    roots = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    roots |= {DATA_IMPORTS[name.split("/")[0]] for name in data if name.split("/")[0] in DATA_IMPORTS}
    wanted = [name for root in roots for name in DISTRIBUTIONS.get(root, [root])]
    return [line for name, line in known.items() if name in wanted or name.replace("-", "_") in wanted]


def docstring(entry, needed, target, recipe):
    """The recipe's docstring, with commands for the copy."""
    monitor = entry.promise["monitor"]
    before, after = re.split(r"\n\n    python -m .*(?:\n    .*)*", entry.docstring.rstrip(), maxsplit=1)
    if "validate" in recipe.definitions:
        score = f'hp = trial.hyperparameters\n            return validate(train(hp, 0), hp)["{monitor["metric"]}"]'
    else:
        # Several networks may be fitted, the recipe's own last; the model is kept as it is after the last epoch.
        score = (
            "last = {}\n            log = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: last.update(logs))\n"
            f'            train(trial.hyperparameters, 0, [log])\n            return last["{monitor["metric"]}"]'
        )
    direction = "max" if monitor["better"] == "higher" else "min"
    search = SEARCH.format(metric=monitor["metric"], score=score, direction=direction, pinned=entry.pinned)
    install = textwrap.wrap("pip install " + " ".join(f"'{line}'" for line in needed), 110, break_on_hyphens=False)
    lines = [" \\\\\n        ".join(install), f"python {target.name} --seed 0"]
    commands = "\n".join(f"    {line}" for line in lines)
    return f'"""{before}\n\n{commands}{after}\n\n{search}"""'


def copy_folder(source, target):
    """Copies a folder without its caches, all of it or nothing; raises errors.RecipeError if a file fails."""
    try:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    except shutil.Error as error:
        shutil.rmtree(target, ignore_errors=True)
        _, path, reason = error.args[0][0]
        raise errors.RecipeError(f"cannot write {path}: {reason}") from None


def copy(entry, target):
    """Writes the recipe to the file `target`, and beside it its TFDS builder and frozen weights, unless they exist.

    Returns:
        A message that says what was written.

    Raises:
        errors.RecipeError: the file exists already, can't be written, is not a .py file name, or would hide a module.
    """
    target = pathlib.Path(target)
    if target.suffix != ".py" or not target.stem.isidentifier():
        raise errors.RecipeError(f"{target} is not a .py file name")
    if os.path.lexists(target):
        raise errors.RecipeError(f"{target} already exists; not overwritten")
    if importlib.util.find_spec(target.stem):
        raise errors.RecipeError(f"{target.name} would hide the module {target.stem!r}; choose another name")
    recipe = Module(entry.path)
    named, needed_imports = gather(recipe)
    inlined = [*named, *shared_settings()]
    names = [name for name in entry.promise["data"] if not name.startswith("environment/")]
    main = MAIN.format(
        stem=target.stem,
        prepare=PREPARE if names else "",
        save=(SAVE if "save" in recipe.definitions else SAVE_MODELS)
        + (SAVE_ASSETS if "assets" in recipe.definitions else ""),
        show=SAVE_SHOWN if "show" in recipe.definitions else "",
    )
    data = f"{DATA.format(names=json.dumps(names))}\n" if names else ""
    code = data + "\n\n\n".join([recipe.body(), *inlined]) + "\n\n" + main.rstrip()
    available = {name: f"import {name}" for name in ("argparse", "json", "pathlib", "tempfile", "keras_tuner", "keras")}
    available |= {"tfds": "import tensorflow_datasets as tfds", **needed_imports, **recipe.imports}
    used = names_in([ast.parse(code)])
    imports = import_lines({line for name, line in available.items() if name in used})
    needed = requirements(imports, entry.promise["data"])
    text = f"{docstring(entry, needed, target, recipe)}\n\n{imports}\n\n{code}\n"
    builders = [
        alias.name
        for node in recipe.tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "common.datasets"
        for alias in node.names
    ]
    weights = [path for path in (catalogue.ROOT / "common").glob("*.keras") if f'"{path.name}"' in code]
    with errors.about(target.parent, "choose another FILE.py"):
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(target, text)
        try:
            for path in weights:
                if not (target.parent / path.name).exists():
                    shutil.copyfile(path, target.parent / path.name)
            for name in builders:
                if not (target.parent / name).exists():
                    copy_folder(catalogue.ROOT / "common" / "datasets" / name, target.parent / name)
        except (OSError, errors.RecipeError):
            target.unlink()  # Or a second attempt would be refused.
            raise
    beside = f", with its dataset builder in {', '.join(builders)}/" if builders else ""
    beside += f", with the weights of {', '.join(path.name for path in weights)}" if weights else ""
    return f"{target} written{beside}. It needs:\n" + "\n".join(f"  {line}" for line in needed)
