"""Texts that are no YAML, by the mistake that was made in a good one."""

from __future__ import annotations

GOOD = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata:
  name: a100
spec:
  rules:
    - name: small
      match: {indices: [0, 1]}
      resource: nvidia.com/gpu.shared
      timeSlicing:
        replicas: 10
    - name: rest
      match:
        models:
          - "*T4*"
      exclusive: {}
  transition: {timeout: 4h}
"""
LINES = GOOD.splitlines()


def changed(old: str, new: str) -> str:
    """The good text with its first `old` written as `new`."""
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def each(form: str) -> str:
    """The good text with something before each line: `{line}` is the line, `{number}` counts them."""
    return "".join(form.format(line=line, number=number) + "\n" for number, line in enumerate(LINES, 1))


JSON = '{{\n  {}\n  "apiVersion": "nodeagent.io/v1alpha1"{}\n  "kind": "SharingConfig"\n}}\n'

# What was done: the text, the line and column where it was done, and the words for it.
BROKEN: dict[str, tuple[str, tuple[int, int], str]] = {
    # Spaces
    "a space too few": (
        changed("      resource", "     resource"),
        (9, 6),
        'expected 6 spaces (as in line 8) before "resource"',
    ),
    "a space too many": (changed("      resource", "       resource"), (9, 8), "expected 6 spaces (as in line 8)"),
    "deeper below a value": (changed("      match: {", "        match: {"), (8, 9), '"name: small" has a value'),
    "at the dash, of the item": (
        changed("      resource", "    resource"),
        (9, 5),
        '6 spaces before "resource", to continue the item of line 7',
    ),
    "at the dash, another item": (changed("    - name: rest", "    name: rest"), (12, 5), 'write "- name: rest"'),
    "between two levels": (changed("spec:", " spec:"), (5, 2), "2 spaces (as in line 4) or no space (as in line 3)"),
    "the first line": (" " + GOOD, (1, 1), 'expected no space before "apiVersion", as in line 2, got 1'),
    "an item too deep": (changed("    - name: rest", "     - name: rest"), (12, 6), "4 spaces (as in line 7)"),
    "an item too far left": (changed("    - name: rest", "   - name: rest"), (12, 4), "4 spaces (as in line 7)"),
    "keys below a value": (changed("metadata:", "metadata: x"), (4, 3), '"metadata: x" has a value'),
    "a list below a value": (changed("  rules:", "  rules: x"), (7, 5), '"rules: x" has a value'),
    "a tab": (changed("      resource", "\tresource"), (9, 1), "got a tab; use spaces"),
    "a tab after spaces": (changed("      resource", "    \tresource"), (9, 5), "got a tab; use spaces"),
    "a tab after a dash": (changed("- name: small", "-\tname: small"), (7, 6), "got a tab; use spaces"),
    "tabs everywhere": (GOOD.replace("  ", "\t"), (4, 1), "got a tab; use spaces"),
    "a tab in a file of Windows": (changed("      resource", "\tresource").replace("\n", "\r\n"), (9, 1), "got a tab"),
    # Dashes and colons
    "no space after the dash": (changed("    - name: rest", "    -name: rest"), (12, 5), 'write "- name: rest"'),
    "no space after the first dash": (
        changed("    - name: small", "    -name: small"),
        (7, 5),
        'write "- name: small"',
    ),
    "an item beside keys": (
        changed("      exclusive", "      - exclusive"),
        (16, 7),
        "expected a key, as in line 13, got a list item",
    ),
    "a list behind its key": (
        changed("  rules:\n    - name: small", "  rules: - name: small"),
        (6, 10),
        "begin a new line",
    ),
    "keys below empty braces": (
        changed("metadata:", "metadata: {}"),
        (4, 3),
        'expected nothing below "metadata: {}", which has a value, got "name: a100"; remove the {}',
    ),
    "a list below empty brackets": (
        changed("  rules:", "  rules: []"),
        (7, 5),
        'below "rules: []", which has a value, got "- name: small"; remove the []',
    ),
    "items below empty braces": (changed("models:", "models: {}"), (15, 11), "remove the {}"),
    "a space too many below braces": (
        changed("exclusive: {}\n", "exclusive: {}\n       resource: x\n"),
        (17, 8),
        "expected 6 spaces",
    ),
    "a plus sign as a dash": (changed("    - name: rest", "    + name: rest"), (12, 5), 'write "- name: rest"'),
    "several dashes": (changed("    - name: rest", "    --- name: rest"), (12, 5), 'write "- name: rest"'),
    "a key left out": (changed("resource: nv", ": nv"), (9, 7), "expected a key before the colon, got none"),
    "a star as a dash": (changed("    - name: rest", "    * name: rest"), (12, 5), 'write "- name: rest"'),
    "a number as a dash": (changed("    - name: rest", "    2. name: rest"), (12, 5), 'write "- name: rest"'),
    "no space after the colon": (
        changed("resource: nv", "resource:nv"),
        (9, 7),
        'write "resource: nvidia.com/gpu.shared"',
    ),
    "no space after a colon in an item": (changed("name: small", "name:small"), (7, 7), 'write "name: small"'),
    "no space after the first colon": (
        changed("apiVersion: ", "apiVersion:"),
        (1, 1),
        'write "apiVersion: nodeagent.io/v1alpha1"',
    ),
    "no colon before braces": (changed("exclusive: {}", "exclusive {}"), (16, 7), 'write "exclusive: {}"'),
    "no colon before a value": (
        changed("resource: nv", "resource nv"),
        (9, 7),
        'write "resource: nvidia.com/gpu.shared"',
    ),
    "no colon before keys": (changed("metadata:", "metadata"), (3, 1), 'write "metadata:"'),
    "an equals sign": (changed("resource: nv", "resource = nv"), (9, 7), 'write "resource: nvidia.com/gpu.shared"'),
    "braces as in C": (changed("spec:", "spec {"), (5, 1), 'write "spec: {"'),
    "a colon in a value": (
        changed("name: small", "name: small: one"),
        (7, 18),
        'got "small: one", which has another ": "',
    ),
    "a colon at the end of a value": (
        changed("name: small", "name: small:"),
        (7, 18),
        'got a colon after "small"; remove it',
    ),
    "a colon at the end of a word": (changed("gpu.shared", "gpu.shared:"), (9, 38), "remove it"),
    "two keys in a line": (changed("name: small", "name: small match: x"), (7, 24), "begin a line for each key"),
    "a colon in a file of an old Mac": (
        changed("name: small", "name: a: b").replace("\n", "\r"),
        (7, 14),
        'which has another ": "',
    ),
    # Quotes
    "a quote, and none follows": (changed("name: small", "name: 'small"), (7, 13), "none up to the end"),
    "a quote, and another opens": (changed("name: small", 'name: "small'), (7, 13), "the next one is in line 15"),
    "a quote, and one follows at once": (
        changed("name: small", 'name: "small').replace("name: rest", 'name: "rest"'),
        (7, 13),
        "line 12",
    ),
    "a quote before a key": (changed("resource:", '"resource:'), (9, 7), 'expected a closing " in this line'),
    "a quote in a list": (changed("[0, 1]", '["0, 1]'), (8, 25), 'expected a closing " in this line'),
    "another kind of quote": (changed("name: small", "name: 'small\""), (7, 13), "expected a closing '"),
    "text after a quote": (changed("name: small", 'name: "small" one'), (7, 21), 'after the closing ", got "one"'),
    "an apostrophe": (changed("name: small", "name: 'it's'"), (7, 17), "write one inside as ''"),
    "an escape": (changed("name: small", r'name: "\d"'), (7, 14), r"got \d; write \\d"),
    # Brackets
    "an open brace": (changed("[0, 1]}", "[0, 1]"), (8, 14), "expected } to close this {, got none"),
    "an open brace in an item": (
        changed("- name: small\n      match: {indices: [0, 1]}", "- match: {indices: [0, 1]\n      name: small"),
        (7, 14),
        "expected } to close this {, got none",
    ),
    "an open bracket in an item": (changed("name: small", "name: [small"), (7, 13), "expected ] to close this ["),
    "an open list in an item": (
        changed("- name: small\n      match: {indices: [0, 1]}", "- match:\n        indices: [0, 1\n      name: small"),
        (8, 18),
        "expected ] to close this [, got none",
    ),
    "an open bracket": (
        changed("{indices: [0, 1]}", "\n        indices: [0, 1"),
        (9, 18),
        "expected ] to close this [",
    ),
    "an open brace in the last line": (changed("4h}", "4h"), (17, 15), "expected } to close this {, got none"),
    "a text that was cut": (GOOD[: GOOD.index("timeout")], (17, 15), "expected } to close this {, got none"),
    "an open brace before keys": (
        changed("spec:", "spec: {"),
        (5, 7),
        "expected } to close this {, got a list item in line 7",
    ),
    "a bracket closed by a brace": (changed("[0, 1]}", "[0, 1}"), (8, 24), "expected ] to close this [, got }"),
    "a brace too many": (changed("[0, 1]}", "[0, 1]}}"), (8, 31), "expected no } here"),
    "a bracket too many": (changed("[0, 1]}", "[0, 1]]}"), (8, 30), "expected no ] here"),
    "a bracket too many after a list": (
        changed("{indices: [0, 1]}", "\n        indices: [0, 1]]"),
        (9, 24),
        "expected no ] here",
    ),
    "no comma between keys": (changed("[0, 1]", "[0, 1] models: [a]"), (8, 30), "expected a comma before models"),
    "no comma behind a value": (
        changed("{indices: [0, 1]}", "{minMemory: 40Gi models: [a]}"),
        (8, 30),
        'expected a comma before "models", got none',
    ),
    "a semicolon for a comma": (
        changed("{indices: [0, 1]}", "{minMemory: 40Gi; models: [a]}"),
        (8, 30),
        'expected a comma before "models", got ";"',
    ),
    "a colon in a value in braces": (
        changed("{indices: [0, 1]}", "{minMemory: 40Gi: x}"),
        (8, 30),
        'got "40Gi: x", which has another ": "',
    ),
    "no colon in braces": (changed("{indices: [0, 1]}", "{indices [0, 1]}"), (8, 22), 'a colon after "indices"'),
    "no comma between texts": (
        changed("indices: [0, 1]", 'models: ["a" "b"]'),
        (8, 28),
        "expected a comma before this",
    ),
    "a comma too many": (changed("[0, 1]", "[0,, 1]"), (8, 27), "remove one comma"),
    # Signs
    "a pattern that begins with a star": (changed('"*T4*"', "*T4*"), (15, 13), 'write "*T4*"'),
    "such a pattern in a list": (
        changed("indices: [0, 1]", "models: [*T4*, b]"),
        (8, 24),
        "got *T4*, and * begins a reference",
    ),
    "a star alone": (changed("indices: [0, 1]", "models: [*]"), (8, 24), 'write "*"'),
    "a pattern that begins with a bracket": (changed('"*T4*"', "[TA]4*"), (15, 17), "put all of it in quotes"),
    "a percent sign": (changed("timeout: 4h", "maxUnavailable: %25"), (17, 32), 'write "%25"'),
    "an at sign": (changed("name: small", "name: @small"), (7, 13), 'write "@small"'),
    "a question mark": (changed("name: small", "name: ? x"), (7, 13), 'and ? begins a key; write "? x"'),
    "backticks": (changed("name: small", "name: `small`"), (7, 13), "` cannot begin a plain text"),
    "a comparison": (changed("name: small", "name: >=40"), (7, 13), 'write ">=40"'),
    "an exclamation mark": ("! ! !\n", (1, 3), "got the tag !; remove it"),
    "two objects": ("{}\n{}\n", (2, 1), 'expected the end of the document, got "{}"; a document is one object'),
    # What is no YAML
    "a template in the first line": ("{{- if .Values.x }}\n" + GOOD, (1, 1), "got the template {{- if .Values.x }}"),
    "a template between lines": (
        changed("  transition", "  {{- if .x }}\n  transition"),
        (17, 3),
        "got the template {{- if .x }}",
    ),
    "a template beside text": (
        changed("name: a100", "name: {{ .Values.pool }}-x"),
        (4, 9),
        "got the template {{ .Values.pool }}",
    ),
    "a template instead of keys": (
        changed("  transition: {timeout: 4h}", '  {{- include "x" . }}'),
        (17, 3),
        "got the template",
    ),
    "a template of Jinja": (
        changed("  rules:", "  {% for x in y %}\n  rules:"),
        (6, 3),
        "got the template {% for x in y %}",
    ),
    "a variable": (changed("4h", "${TIMEOUT}"), (17, 25), "got the variable ${TIMEOUT}"),
    "a comment of JSON": (JSON.format("// the pool", ","), (2, 3), "expected a comment that begins with #, got //"),
    "a comment of C": (JSON.format("/* the pool */", ","), (2, 3), "got /*"),
    "a comment behind a value": (JSON.format("", ", // ours"), (3, 42), "got //"),
    "no comma in JSON": (JSON.format("", ""), (3, 40), 'expected a comma before "kind"'),
    "two commas in JSON": (JSON.format("", ",,"), (3, 41), "remove one comma"),
    "JSON that was cut": (JSON.format("", ",").removesuffix("}\n"), (1, 1), "expected } to close this {, got none"),
    "JSON without braces": ('"apiVersion": "x",\n"kind": "y"\n', (1, 18), "got a comma; remove it"),
    "a comment of slashes": (changed("  rules:", "  // of the pool\n  rules:"), (6, 3), "got //"),
    "a here-document": (f"cat <<EOF > sharing.yaml\n{GOOD}EOF\n", (1, 1), "of a shell's here-document"),
    "the end of a here-document": (f"{GOOD}EOF\n", (18, 1), 'got "EOF" of a shell\'s here-document'),
    "a prompt": ("$ cat sharing.yaml\n" + GOOD, (1, 1), "got a command of a shell"),
    "a fence": (f"```yaml\n{GOOD}```\n", (1, 1), "got a Markdown fence"),
    "the end of a fence": (f"{GOOD}```\n", (18, 1), "got a Markdown fence"),
    "a diff": (f"--- a/x.yaml\n+++ b/x.yaml\n@@ -1,3 +1,3 @@\n{each(' {line}')}", (1, 1), "got a diff"),
    "lines of a diff": (each("+{line}"), (1, 1), "remove it from each"),
    "a line of a diff": (changed("      resource", "+     resource"), (9, 1), 'which begins with "+"'),
    "a line that a diff removes": (changed("      resource", "-     resource"), (9, 1), 'which begins with "-"'),
    "a conflict": (
        changed("      resource", "<<<<<<< HEAD\n      resource"),
        (9, 1),
        "got the merge conflict marker <<<<<<<",
    ),
    "numbered lines": (each("{number:3}\t{line}"), (1, 1), "remove the numbers"),
    "lines left out": (changed("    - name: rest", "    ...\n    - name: rest"), (12, 5), "lines that were left out"),
    "a web page": ('<!DOCTYPE html>\n<html>\n<body class="x">: a</body>\n', (1, 1), "got HTML or XML"),
    "TOML": ('[metadata]\nname = "a"\n[spec]\nx = 1\n', (1, 1), "got TOML or INI"),
    "a version of YAML without its line": ("%YAML 1.1\n" + GOOD, (1, 1), "write it, or remove this line"),
    "an instruction to the reader": ("%FOO\n" + GOOD, (1, 1), "remove the line"),
}
