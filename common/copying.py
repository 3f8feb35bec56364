"""Writes a recipe as one file of its own: what it uses of `common` inlined, a plain main in place of the runner.

Works on the source text, by its syntax tree and tokens, so that comments and layout come along.
"""

import ast
import io
import pathlib
import re
import shutil
import sys
import textwrap
import tokenize

from common import catalogue, errors

COOKBOOK_ONLY = ("PROMISE", "VARIANTS")  # What the runner reads; the copy has none.
DISTRIBUTIONS = {  # The import names that differ from their line in requirements.txt by more than _ for -.
    "sklearn": ["scikit-learn"],
    "keras_tuner": ["keras-tuner", "tensorboard"],
    "tensorflow_datasets": ["tensorflow-datasets", "importlib_resources"],
}

MAIN = '''
def main():
    """Trains, evaluates, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=[], metavar="name=value", help="change hyperparameters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a few examples, in seconds")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("{stem}"), help="folder of the files")
    options = parser.parse_args()
    hp = configure(keras_tuner.HyperParameters())
    hp.values.update(TINY if options.tiny else {{}})
    for assignment in options.set:
        name, _, text = assignment.partition("=")
        if name not in hp.values:
            parser.error(f"no hyperparameter {{name!r}}; known: {{', '.join(hp.values)}}")
        hp.values[name] = text.lower() == "true" if isinstance(hp[name], bool) else type(hp[name])(text)
    model = train(hp, options.seed)
    for name, value in evaluate(model, hp).items():
        print(f"{{name:24}} {{value:.6g}}")
    options.out.mkdir(parents=True, exist_ok=True)
    first, *others = model.items() if isinstance(model, dict) else [("model", model)]
    for name, each in [("model", first[1]), *others]:
        keras.Model(each.inputs, each.outputs, name=each.name).save(options.out / f"{{name}}.keras")
{extras}    print(f"Files in {{options.out}}")


if __name__ == "__main__":
    main()
'''
SAVE_ASSETS = """    for name, text in assets(hp).items():
        (options.out / name).write_text(text, encoding="utf-8")
"""
SAVE_SHOWN = """    for name, shown in show(model, hp).items():
        if isinstance(shown, str):
            print(f"\\n{shown}")
        else:
            shown.savefig(options.out / f"{name}.png")
"""
SEARCH = """\
Search its hyperparameters with KerasTuner:

    class Search(keras_tuner.RandomSearch):
        def run_trial(self, trial):
            history = keras.callbacks.History()
            train(trial.hyperparameters, 0, lambda *fit, **options: [*callbacks(*fit, **options), history])
            return {{"{metric}": {best}(history.history["{metric}"])}}

    space = configure(keras_tuner.HyperParameters())
    Search(objective=keras_tuner.Objective("{metric}", "{direction}"), hyperparameters=space).search()
"""


class Module:
    """The top-level definitions and imports of one source file."""

    def __init__(self, path):
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines(keepends=True)
        self.tree = ast.parse(self.text)
        self.definitions, self.imports, self.siblings = {}, {}, {}
        for node in self.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self.definitions[node.name] = self.source(node)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    names = target.elts if isinstance(target, ast.Tuple) else [target]
                    self.definitions.update({name.id: self.source(node) for name in names})
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                self.note_imports(node)

    def note_imports(self, node):
        for alias in node.names:
            bound = alias.asname or alias.name.split(".")[0]
            renamed = f" as {alias.asname}" if alias.asname else ""
            if isinstance(node, ast.Import):
                self.imports[f"import {alias.name}{renamed}"] = bound
            elif node.module == "common":
                self.siblings[bound] = alias.name
            elif node.module == "common.datasets":
                self.imports[f"import {alias.name}{renamed}"] = bound
            else:
                self.imports[f"from {node.module} import {alias.name}{renamed}"] = bound

    def body(self):
        """All between the imports and the main guard, without what belongs to the cookbook alone."""
        lines = list(self.lines)
        for node in self.tree.body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_import = isinstance(node, (ast.Import, ast.ImportFrom))
            is_cookbook = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in COOKBOOK_ONLY
            if is_docstring or is_import or is_cookbook or isinstance(node, ast.If):
                lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
        return "".join(lines)

    def source(self, node):
        """The node's text, with its decorators and the comment lines right above it."""
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))]) - 1
        while first > 0 and self.lines[first - 1].startswith("#"):
            first -= 1
        return "".join(self.lines[first : node.end_lineno])


def names_in(text):
    """Every name token of a piece of source that is not an attribute: (name, attribute after it, position)."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.string.strip()]
    for index, token in enumerate(tokens):
        if token.type != tokenize.NAME or (index and tokens[index - 1].string == "."):
            continue
        dotted = index + 2 < len(tokens) and tokens[index + 1].string == "."
        yield token, tokens[index + 2] if dotted else None


def rewrite(text, siblings, names, module_name=None):
    """Replaces `module.name` of the common modules, and a module's own names, by those that the copy gives them."""
    lines = text.splitlines(keepends=True)
    for token, attribute in reversed(list(names_in(text))):
        if attribute and token.string in siblings:
            new, end = names[siblings[token.string], attribute.string], attribute.end[1]
        elif (module_name, token.string) in names:
            new, end = names[module_name, token.string], token.end[1]
        else:
            continue
        row = token.start[0] - 1
        lines[row] = lines[row][: token.start[1]] + new + lines[row][end:]
    return "".join(lines)


def gather(recipe, kept):
    """Follows the recipe's uses of `common`, and theirs.

    kept: the recipe's definitions that the copy has.

    Returns:
        {(module, name): source}, modules and names in the order of their files.
    """
    folder = catalogue.ROOT / "common"
    modules, wanted = {}, set()

    def visit(module_name, name):
        if (module_name, name) in wanted:
            return
        module = modules.setdefault(module_name, Module(folder / f"{module_name}.py"))
        if name not in module.definitions:
            raise errors.RecipeError(f"common/{module_name}.py defines no {name!r}")
        wanted.add((module_name, name))
        follow(module.definitions[name], module, module_name)

    def follow(text, module, module_name=None):
        for token, attribute in names_in(text):
            if attribute and token.string in module.siblings:
                visit(module.siblings[token.string], attribute.string)
            elif module_name and token.string in module.definitions:
                visit(module_name, token.string)

    for name in kept:
        follow(recipe.definitions[name], recipe)
    order = ["errors", *sorted(set(modules) - {"errors"})]
    return modules, {
        (module_name, name): modules[module_name].definitions[name]
        for module_name in order
        if module_name in modules
        for name in modules[module_name].definitions
        if (module_name, name) in wanted
    }


def copied_names(inlined, recipe):
    """What each inlined definition is called in the copy: its own name, unless the recipe has that one."""
    taken = {token.string for text in recipe.definitions.values() for token, _ in names_in(text)} - set(recipe.siblings)
    taken -= {"callbacks"}  # A parameter whose default is the inlined function itself.
    names = {}
    for module_name, name in inlined:
        clash = name in taken or name in names.values()
        names[module_name, name] = f"{module_name}_{name}" if clash else name
    return names


def import_lines(statements):
    """Sorted import statements: the standard library, then the rest."""

    def is_standard(line):
        return line.split()[1].split(".")[0] in sys.stdlib_module_names

    ordered = sorted(statements, key=lambda line: (line.startswith("from"), line))
    groups = [[line for line in ordered if is_standard(line) == standard] for standard in (True, False)]
    return "\n\n".join("\n".join(group) for group in groups if group)


def requirements(code):
    """The lines of requirements.txt that the code's imports need."""
    lines = (catalogue.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    known = {re.split(r"[<>=!~\s]", line)[0]: line.split("#")[0].strip() for line in lines if line[:1].isalpha()}
    roots = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    wanted = [name for root in roots for name in DISTRIBUTIONS.get(root, [root])]
    return [line for name, line in known.items() if name in wanted or name.replace("-", "_") in wanted]


def docstring(entry, needed, file):
    """The recipe's docstring with commands for the copy."""
    monitor = entry.promise["monitor"]
    before, _, after = re.split(r"\n\n(    python -[mc] .*(?:\n    .*)*)", entry.docstring.rstrip())
    higher = monitor["better"] == "higher"
    search = SEARCH.format(
        metric=monitor["metric"], best="max" if higher else "min", direction="max" if higher else "min"
    )
    install = textwrap.wrap("pip install " + " ".join(f"'{line}'" for line in needed), 110, break_on_hyphens=False)
    commands = " \\\\\n        ".join(install) + f"\n    python {file} --seed 0"
    return f'"""{before}\n\n    {commands}{after}\n\n{search}"""'


def copy(entry, target):
    """Writes the recipe to the file `target`, its TFDS builder beside it.

    Returns:
        What was written, in words.

    Raises:
        errors.RecipeError: something is there already.
    """
    target = pathlib.Path(target)
    if target.suffix != ".py" or not target.stem.isidentifier():
        raise errors.RecipeError(f"{target} is no name of a Python file")
    recipe = Module(entry.path)
    kept = [name for name in recipe.definitions if name not in COOKBOOK_ONLY]
    builders = [
        alias.name
        for node in recipe.tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "common.datasets"
        for alias in node.names
    ]
    for path in [target, *(target.parent / name for name in builders)]:
        if path.exists():
            raise errors.RecipeError(f"{path} exists already and is not overwritten")

    modules, inlined = gather(recipe, kept)
    names = copied_names(inlined, recipe)
    pieces = [
        rewrite(text, modules[module_name].siblings, names, module_name).rstrip()
        for (module_name, _), text in inlined.items()
    ]
    body = rewrite(recipe.body(), recipe.siblings, names)
    extras = (SAVE_ASSETS if "assets" in kept else "") + (SAVE_SHOWN if "show" in kept else "")
    code = "\n\n\n".join([*dict.fromkeys(pieces), body.strip()]) + "\n\n" + MAIN.format(stem=target.stem, extras=extras)
    available = {f"import {name}": name for name in ("argparse", "pathlib", "keras_tuner")}
    for module in [*modules.values(), recipe]:
        available |= module.imports
    used = {token.string for token, _ in names_in(code)}
    imports = import_lines({line for line, bound in available.items() if bound in used})
    needed = requirements(imports)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{docstring(entry, needed, target.name)}\n\n{imports}\n\n\n{code}", encoding="utf-8")
    for name in builders:
        source = catalogue.ROOT / "common" / "datasets" / name
        shutil.copytree(source, target.parent / name, ignore=shutil.ignore_patterns("__pycache__"))
    beside = f", with its data set's builder in {', '.join(builders)}/" if builders else ""
    return f"{target} written{beside}. It needs:\n" + "\n".join(f"  {line}" for line in needed)
