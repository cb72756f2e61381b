"""Random template snippets for templates.py: expressions over small values, filters, methods, tests, statements, whitespace."""

VALUES = {
    "s": "Hello World", "t": "  a,b,,c \n", "u": "ÄöÜ ß 日本 🎉", "e": "", "q": "it's \"x\"\\\n\t<b>&", "num": "42", "fl": "3.75",
    "i": 7, "z": 0, "n": -3, "f": 2.5, "g": -0.1, "big": 1e20, "y": True, "no": False, "nul": None,
    "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "le": [], "lm": [1, "a", None, [2], {"k": 1}],
    "d": {"b": 2, "a": 1, "C": 3}, "de": {}, "items_key": {"items": 5, "x": {"y": [1, {"z": "deep"}]}},
    "p": [{"n": "x", "v": 3, "s": {"t": 1}}, {"n": "Y", "v": 1, "s": {"t": 2}}, {"n": "x", "v": 2, "s": {"t": 0}}],
}
NAMES = list(VALUES) + ["missing"]
STR = ["s", "t", "u", "e", "q", "num", "fl", "'lit'", "'a-b c'", '"x\\ty"', "'%s and %d'", "'{} {x}'"]
METHODS = ["strip()", "strip('a ')", "lstrip()", "rstrip()", "rstrip('\\n ')", "upper()", "lower()", "title()", "capitalize()", "swapcase()", "split()", "split(',')",
           "split(' ', 1)", "rsplit(' ', 1)", "rsplit(',', 2)", "rsplit(None, 1)", "split(None, 1)", "splitlines()", "splitlines(true)", "startswith('H')", "startswith(('a', ' '))", "endswith('d')",
           "find('o')", "find('o', 5)", "rfind('o')", "count('a')", "count('')", "replace('a', 'ZZ')", "replace('', '-')", "replace('l', '', 1)", "isdigit()", "isalpha()", "isalnum()",
           "isupper()", "islower()", "isspace()", "istitle()", "zfill(6)", "center(20, '*')", "ljust(15)", "rjust(15, '.')", "partition(',')", "rpartition(' ')",
           "removeprefix('He')", "removesuffix('d')", "join(['1', '2'])", "join('xyz')", "join([1])", "index('o')", "format(1, x=2)", "encode", "expandtabs(4)", "foo", "foo()", "casefold"]
DICTM = ["items()", "keys()", "values()", "get('a')", "get('zz')", "get('zz', 5)", "a", "b", "zz", "items", "items() | list", "keys() | list | join(',')", "copy()", "pop('a')", "update({})", "x.y", "x['y'][1].z"]
LISTM = ["append(1)", "index(1)", "count(1)", "0", "length", "foo"]
FILTERS = ["abs", "capitalize", "center(12)", "count", "default('D')", "default('D', true)", "d(1)", "dictsort", "dictsort(by='value')", "dictsort(reverse=true)", "escape", "first", "last",
           "float", "int", "int(9)", "int(base=16)", "format(1, 2)", "indent", "indent(2, true)", "indent('> ', blank=true)", "items | list", "join", "join(', ')", "join(',', attribute='n')",
           "length", "list", "lower", "upper", "map('upper') | list", "map(attribute='n') | list", "map(attribute='zz', default='q') | list", "map('int') | list", "max", "min", "max(attribute='v')",
           "reject('none') | list", "rejectattr('n', 'equalto', 'x') | list", "select | list", "select('string') | list", "selectattr('v', 'gt', 1) | list", "selectattr('s.t') | map(attribute='n') | join",
           "select('in', [1, 2, 'a']) | list", "replace('l', 'LL')", "replace('o', '0', 1)", "reverse | list", "reverse", "round", "round(1)", "round(method='floor')", "round(1, 'ceil')", "safe", "slice(2) | list",
           "batch(2) | list", "batch(2, 'f') | list", "sort", "sort(reverse=true)", "sort(case_sensitive=true)", "sort(attribute='v')", "sort(attribute='n,v')", "string", "sum", "sum(attribute='v')",
           "title", "tojson", "tojson(indent=2)", "tojson(sort_keys=true)", "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'))", "trim", "trim('a')", "truncate(5)", "truncate(8, true, '..', 0)",
           "unique | list", "unique(case_sensitive=true) | list", "urlencode", "wordcount", "filesizeformat", "groupby('n')", "groupby('n') | map(attribute='list') | list", "attr('x')", "forceescape", "nofilter"]
TESTS = ["defined", "undefined", "none", "string", "number", "mapping", "iterable", "sequence", "true", "false", "boolean", "integer", "float", "odd", "even", "divisibleby 3", "divisibleby(2)", "in [1, 'a', 7]",
         "eq 7", "ne 1", "gt 1", "lt 2", "sameas none", "callable", "lower", "upper", "equalto('x')", "escaped", "not defined", "not none", "notest"]
BIN = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">", "<=", ">=", "and", "or", "in", "not in"]
NUM = ["1", "0", "2", "-1", "3", "10", "2.0", "0.5", "1e3", "1.5e-7", "123456789", "1_000", "0x1f", "100.0", "1e16", "0.1"]


def atom(r):
    k = r.randrange(12)
    if k < 5: return r.choice(NAMES)
    if k < 7: return r.choice(NUM)
    if k < 8: return r.choice(STR)
    if k < 9: return r.choice(["true", "false", "none", "None", "True", "[]", "{}", "()", "(1,)", "[1, 'a', 2.0]", "{'k': [1, none], 2: true}", "range(3)", "range(5, 0, -2)", "dict(a=1)", "'a' 'b'"])
    if k < 10: return f"{r.choice(['s', 'u', 'l', 'ls', 't', 'q'])}[{r.choice(['0', '-1', '1:', ':2', '::2', '::-1', '1:-1', '-2:', '9', '5:1:-1', ':-1:2', '-3::2', 'none:2'])}]"
    if k < 11: return r.choice(["d['a']", "d['zz']", "d[0]", "d[l]"]) if r.random() < .5 else r.choice(["items_key.items", "items_key['items']", "p[0].s.t", "p[1]['n']", "p.0.n", "missing.x", "lm[3][0]"])
    return r.choice(["namespace(a=1).a", "loop", "'%05.2f|%-6s|%+d|%x' % (f, s, i, i)", "'%s' % l", "'%s %s' % ('a', 1)", "'%(a)s' % d", "'{:>8}|{:<8}|{:^8}'.format(i, s, 'x')",
                     "'{0} {1} {0}'.format('a', 'b')", "'{:.2f} {:,} {:05d} {:x} {!r}'.format(f, 1234567, i, 255, s)", "'{a[b]} {x.y}'.format(a=d, x=items_key.x)", "'{:d}'.format(f)", "'%d' % s", "'%s'", "'{{}}'.format()"])


def expr(r, depth=0):
    k = r.randrange(14)
    if depth > 3 or k < 3: return atom(r)
    if k < 5: return f"{expr(r, depth + 1)} {r.choice(BIN)} {expr(r, depth + 1)}"
    if k < 7:
        base = atom(r)
        return f"({base}) | {r.choice(FILTERS)}" if r.random() < .3 else f"{base} | {r.choice(FILTERS)}"
    if k < 8: return f"{r.choice(STR)}.{r.choice(METHODS)}"
    if k < 9: return f"{r.choice(['d', 'de', 'items_key'])}.{r.choice(DICTM)}" if r.random() < .7 else f"{r.choice(['l', 'ls', 'lm'])}.{r.choice(LISTM)}"
    if k < 10: return f"{atom(r)} is {r.choice(TESTS)}"
    if k < 11: return f"({expr(r, depth + 1)})"
    if k < 12: return f"{expr(r, depth + 1)} if {expr(r, depth + 1)}" + (f" else {expr(r, depth + 1)}" if r.random() < .8 else "")
    if k < 13: return f"{r.choice(['not ', '-', '+', 'not not '])}{expr(r, depth + 1)}"
    return f"{atom(r)} {r.choice(['<', '==', '<=', 'in'])} {atom(r)} {r.choice(['<', '!=', '>', 'not in'])} {atom(r)}"


SPACE = ["", " ", "\n", "  \n", "\n  ", "text", " x\n", "\t", "\n\n", "}", "{", "%}", "<|im_end|>", "\r\n", "é"]


def tag(r, inner):
    return "{%" + r.choice(["", "", "-", "+"]) + " " + inner + " " + r.choice(["", "", "-", "+"]) + "%}"


def stmt(r, depth=0, loop=False):
    b = lambda inner_loop=loop: body(r, depth + 1, inner_loop)
    k = r.randrange(17)
    e = lambda: expr(r, 2)
    if depth > 2 or k < 4: return "{{" + r.choice(["", "", "-"]) + " " + expr(r, 1) + " " + r.choice(["", "", "-"]) + "}}"
    if k < 6:
        return tag(r, "if " + e()) + b() + (tag(r, "elif " + e()) + b() if r.random() < .3 else "") + (tag(r, "else") + b() if r.random() < .5 else "") + tag(r, "endif")
    if k < 9:
        head = r.choice(["for x in l", "for x in ls", "for x in " + e(), "for k, v in d.items()", "for k, v in d | dictsort", "for x in p if x.v > 1", "for c in s", "for x in lm recursive", "for a in missing", "for x in range(4)",
                         "for x in p | selectattr('n', 'equalto', 'x')", "for k in d"])
        inner = b(True) + r.choice(["{{ loop.index }}", "{{ loop.last }}{{ loop.first }}", "{{ loop.revindex0 }}/{{ loop.length }}", "{{ x }}", "{{ loop.cycle('a', 'b') }}", "{{ loop.previtem }}|{{ loop.nextitem }}", "{{ loop.changed(x) }}",
                                    "{{ k }}={{ v }}", "{% set i = i + 1 %}{{ i }}", "{{ loop.depth }}{{ loop.index0 }}", ""])
        if r.random() < .25: inner += tag(r, r.choice(["break", "continue", "if loop.index > 1"]) ) if r.random() < .6 else "{% if x == 2 %}{% break %}{% endif %}"
        if "if loop.index > 1" in inner: inner += r.choice(["{% break %}", "{% continue %}", "y"]) + "{% endif %}"
        return tag(r, head) + inner + (tag(r, "else") + b() if r.random() < .3 else "") + tag(r, "endfor")
    if k < 11: return tag(r, f"set {r.choice(['a', 'i', 's', 'x', 'a, bb'])} = {e()}") + r.choice(["{{ a }}", "{{ i }}", "{{ s }}{{ x }}", ""])
    if k < 12: return "{% set blk " + r.choice(["", "| upper ", "| trim | replace('a', 'b') "]) + "%}" + b() + "{% endset %}[{{ blk }}]"
    if k < 13:
        return "{% macro m(" + r.choice(["x", "x, y=2", "x='q', y=x", ""]) + ") %}" + b(False) + r.choice(["{{ x }}{{ y }}", "{{ varargs }}{{ kwargs }}", "{{ caller() }}", "{{ caller('z') if caller }}", ""]) + "{% endmacro %}" + \
            r.choice(["{{ m(1) }}", "{{ m() }}", "{{ m(1, 2, 3) }}", "{{ m(x=1, zz=2) }}", "{% call m(1) %}in {{ x }}{% endcall %}", "{% call(w) m(2) %}{{ w }}{% endcall %}", "{{ m(*l) }}", "{{ m(**{'x': 4}) }}"])
    if k < 14: return "{% set ns = namespace(c=0) %}{% for x in l %}{% set ns.c = ns.c + x %}" + b(True) + "{% endfor %}{{ ns.c }}"
    if k < 15: return "{% filter " + r.choice(["upper", "indent(2)", "trim", "replace('e', '3')"]) + " %}" + b() + "{% endfilter %}"
    if k < 16: return r.choice(["{# note #}", "{#- note -#}", "{% raw %} {{ x }} {% endraw %}", "{%- raw -%} a {% b {%- endraw -%}", "{#+ c +#}", "{%+ raw %}\n{%+ endraw +%}\n"])
    return "{% with w = " + e() + ", i = 5 %}" + b() + "{{ w }}{{ i }}{% endwith %}" if r.random() < .7 else "{% generation %}" + b() + "{% endgeneration %}"


def body(r, depth=0, loop=False):
    return "".join(r.choice(SPACE) + stmt(r, depth, loop) + r.choice(SPACE) for _ in range(r.choice([0, 1, 1, 2])))


def comparable(text):
    """False for what prints addresses or depends on Python's own limits."""
    return not any(w in text for w in ("lipsum", "random"))  # list.pop() is refused here, as by later versions of Jinja2


def cases(r, n):
    made = 0
    while made < n:
        text = "{{ " + expr(r) + " }}" if r.random() < .55 else body(r) or "x"
        if not comparable(text): continue
        made += 1
        yield text, dict(VALUES)
