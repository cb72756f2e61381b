#!/usr/bin/python3
"""Chat templates against Python's jinja2, set up as transformers does.

templates.py [--tool PROGRAM] [--random N] [--seed S]
Renders every template of $PEER_DIR/data/models/templates over a matrix of conversations, and N generated snippets, with both, and
prints a table; exit status 1 when a text differs or one raises where the other does not. PROGRAM is chat_tool, of the build folder ($BUILD_DIR, build) when not given.
"""
import argparse, datetime, functools, glob, json, os, random, subprocess, sys, tempfile

try:
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    sys.exit(print("templates: python3-jinja2 is not installed: skipped") or 0)

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
NOW = datetime.datetime(2025, 3, 7, 14, 5, 9)


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_run"), [], [], body).set_lineno(line)

    def _run(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: NOW.strftime(fmt)
    return env


ENV = environment()


@functools.lru_cache(8)
def compiled(text):
    return ENV.from_string(text)


def reference(text, given):
    try:
        values = {k: v for k, v in json.loads(json.dumps(given)).items() if k != "now"}  # a copy: the indent filter changes lists
        values.setdefault("add_generation_prompt", True)
        return compiled(text).render(**values), None
    except RecursionError:
        return None, "recursion"
    except Exception as e:
        return None, f"{type(e).__name__}: {e}"


def build():
    folder = os.environ.get("BUILD_DIR") or f"{ROOT}/build"
    subprocess.run(["ninja", "-C", folder, "--quiet", "chat_tool"], check=True)
    return f"{folder}/tests/conformance/chat_tool"


def ours(tool, cases):
    lines = "".join(json.dumps({"template": t, "input": i}) + "\n" for t, i in cases)
    done = subprocess.run([tool], input=lines, capture_output=True, text=True)
    got = [json.loads(l) for l in done.stdout.splitlines()]
    if len(got) != len(cases):
        print(done.stderr[-3000:])
        case = cases[len(got)]
        sys.exit(f"templates: the program ended at a case: {json.dumps(case[0])[:1500]} {json.dumps(case[1])[:300]}")
    return got


WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather\nof a place", "parameters": {
    "type": "object", "properties": {
        "city": {"type": "string", "description": "Which city, e.g. <b>Łódź</b>"},
        "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
        "days": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"type": "string"}},
        "opts": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}, "required": []}},
    "required": ["city"]}, "return": {"type": "object"}}}
NOW_TOOL = {"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, ident="call00001"):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def U(t): return {"role": "user", "content": t}
def A(t, **k): return {"role": "assistant", "content": t, **k}
def S(t): return {"role": "system", "content": t}
def T(t, **k): return {"role": "tool", "content": t, **k}


def conversations():
    args = {"city": "Paris \"75\" é", "days": 2, "tags": ["a", "b"], "opts": {"x": 1.5}, "ok": True, "none": None}
    parts = [{"type": "text", "text": "look at "}, {"type": "text", "text": "this"}]
    turn = [U("Weather?"), A("", tool_calls=[call("get_weather", args)]), T("{\"t\": 21}", name="get_weather", tool_call_id="call00001")]
    yield "user", [U("Hello")]
    yield "system", [S("Be brief."), U("Hello")]
    yield "turns", [U("Hi"), A("Hello!"), U("1+1?"), A("2"), U("Thanks <|im_end|> </s> [INST] {{ x }}")]
    yield "system turns", [S("You are\n\n good. "), U("  Hi  "), A(" Hello! \n"), U("\n1+1?\n")]
    yield "developer", [{"role": "developer", "content": "Be kind."}, U("Hi")]
    yield "empty content", [S(""), U(""), A(""), U("x")]
    yield "ends with assistant", [U("Hi"), A("Hello")]
    yield "two systems", [S("one"), S("two"), U("Hi")]
    yield "only system", [S("one")]
    yield "assistant first", [A("Hello"), U("Hi")]
    yield "user user", [U("a"), U("b")]
    yield "think in content", [U("Hi"), A("<think>\nI should greet.\n</think>\n\nHello"), U("Bye"), A("<think>x</think>y"), U("z")]
    yield "reasoning", [U("Hi"), A("Hello", reasoning_content="I greet.\n"), U("Bye")]
    yield "reasoning last", [S("s"), U("Hi"), A("Hello", reasoning_content="I greet."), U("Bye"), A("", reasoning_content="deep", tool_calls=[call("now", {})]), T("12:00")]
    yield "reasoning key", [U("Hi"), A("Hello", reasoning="I greet."), U("Bye")]
    yield "thinking key", [U("Hi"), A("Hello", thinking="I greet.", tool_calls=[call("now", {})]), T("12"), A("at noon")]
    yield "parts", [S("s"), U(parts)]
    yield "parts everywhere", [{"role": "system", "content": parts}, U(parts), A(parts), U([{"type": "text", "text": "x"}])]
    yield "image", [U([{"type": "image"}, {"type": "text", "text": "what is it?"}])]
    yield "image url", [U([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "http://x/y.png"}}])]
    yield "empty parts", [U([])]
    yield "tool call", [S("s")] + turn
    yield "tool call and answer", turn + [A("21 degrees"), U("thanks")]
    yield "tool call, null content", [U("Weather?"), A(None, tool_calls=[call("get_weather", args)]), T("21", tool_call_id="call00001")]
    yield "tool call, text arguments", [U("Weather?"), A("", tool_calls=[call("get_weather", json.dumps(args))]), T("21", tool_call_id="call00001", name="get_weather")]
    yield "tool call with content", [U("Weather?"), A("let me see", tool_calls=[call("get_weather", args)]), T("21", tool_call_id="call00001")]
    yield "two calls", [U("Weather?"), A("", tool_calls=[call("get_weather", args), call("now", {}, "call00002")]), T("21", tool_call_id="call00001", name="get_weather"),
                        T("12:00", tool_call_id="call00002", name="now"), A("It is 21 at noon.")]
    yield "tool result parts", [U("Weather?"), A("", tool_calls=[call("now", {})]), T(parts, tool_call_id="call00001", name="now")]
    yield "tool result object", [U("Weather?"), A("", tool_calls=[call("now", {})]), T({"t": [1, 2.5, None]}, tool_call_id="call00001", name="now")]
    yield "no content key", [U("Weather?"), {"role": "assistant", "tool_calls": [call("now", {})]}, T("12", tool_call_id="call00001")]
    yield "bare call", [U("x"), A("", tool_calls=[{"name": "now", "arguments": {"a": 1}}]), T("12")]
    yield "old ids", [U("x"), A("", tool_calls=[call("now", {}, "1")]), T("12", tool_call_id="1")]
    yield "unknown role", [U("x"), {"role": "wizard", "content": "y"}]
    yield "no messages", []
    yield "unicode", [S("Ünïcödé ß"), U("日本語 🎉 \u2028 \u00a0x\u3000"), A("čau")]
    yield "null content", [U("x"), A(None), U("y")]
    yield "number content", [U(5)]
    yield "no role", [{"content": "x"}]


def inputs():
    tools = {"none": {}, "tools": {"tools": [WEATHER, NOW_TOOL]}, "empty tools": {"tools": []}, "null tools": {"tools": None},
             "bare tools": {"tools": [WEATHER["function"]]}}
    extras = [("", {}), ("think", {"enable_thinking": True, "thinking": True}), ("no think", {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}),
              ("more", {"custom_instructions": "be odd", "documents": [{"title": "T", "text": "X", "content": "C"}], "date_string": "1 Jan", "datetime": "now", "model_identity": "You are Z",
                        "tool_choice": "required", "parallel_tool_calls": True, "keep_past_thinking": True, "xml_tools": ["a"], "builtin_tools": ["browser", "python"]})]
    for name, messages in conversations():
        for tname, t in tools.items():
            for ename, extra in extras:
                if ename and tname not in ("none", "tools"): continue
                for gen in (True, False):
                    if not gen and ename == "think": continue
                    yield f"{name}/{tname}/{ename}/{gen}", {"messages": messages, **t, **extra, "add_generation_prompt": gen, "bos_token": "<s>", "eos_token": "</s>",
                                                            "now": NOW.isoformat()}


def compare(tool, cases, labels, show):
    bad = 0
    raised = 0
    for (text, given), got, label in zip(cases, ours(tool, cases), labels):
        want, why = reference(text, given)
        raised += want is None
        if want and " at 0x" in want.lower() or "past 64 bits" in got.get("error", ""): continue  # Python prints an address, or has an integer past 64 bits
        if (want is None) != ("error" in got) or (want is not None and got["text"] != want):
            bad += 1
            if bad <= show:
                print(f"  {label}")
                if want is None or "error" in got:
                    print(f"    jinja2: {why or repr(want)[:300]}\n    ours:   {got.get('error') or repr(got['text'])[:300]}")
                else:
                    at = next((i for i, (a, b) in enumerate(zip(want, got["text"])) if a != b), min(len(want), len(got["text"])))
                    print(f"    jinja2: {want[max(0, at - 60):at + 100]!r}\n    ours:   {got['text'][max(0, at - 60):at + 100]!r}")
    return bad, raised


def through_program(program, files, matrix):
    """A sample through the command line: `altiserve template FILE --messages FILE`."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        messages = os.path.join(folder, "messages.json")
        for k, f in enumerate(files):
            text = open(f, encoding="utf-8").read()
            for label, given in (matrix[(k * 97 + 31 * n) % len(matrix)] for n in range(3)):
                json.dump(given, open(messages, "w"))
                want, why = reference(text, given)
                done = subprocess.run([program, "template", f, "--messages", messages], capture_output=True)
                got = done.stdout.decode() if done.returncode == 0 else None
                if want != got:
                    bad += 1
                    print(f"  {os.path.basename(f)} {label}\n    jinja2: {why or repr(want)[:200]}\n    ours:   {repr(got)[:200]} {done.stderr.decode()[:200]}")
    print(f"{'ok ' if not bad else 'BAD'} {'through the command line':55} {3 * len(files)} conversations, {bad} differ")
    return bad


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tool")
    p.add_argument("--random", type=int, default=3000)
    p.add_argument("--mutate", type=int, default=0, help="real templates with characters cut, doubled, moved")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--show", type=int, default=3)
    p.add_argument("--only", default="")
    a = p.parse_args()
    peer = os.environ.get("PEER_DIR", "")
    files = sorted(glob.glob(f"{peer}/data/models/templates/*{a.only}*.jinja")) if peer else []
    if not files: print("templates: no templates under $PEER_DIR/data/models/templates: only the generated ones")
    tool = a.tool or build()
    total = 0
    matrix = list(inputs())
    for f in files:
        text = open(f, encoding="utf-8").read()
        bad, raised = compare(tool, [(text, i) for _, i in matrix], [n for n, _ in matrix], a.show)
        print(f"{'ok ' if not bad else 'BAD'} {os.path.basename(f)[:-6]:55} {len(matrix)} conversations, {raised} refused by both, {bad} differ")
        total += bad
    program = os.environ.get("ALTISERVE_BIN", "")
    if os.access(program, os.X_OK) and files: total += through_program(program, files, matrix)
    if a.random:
        import chat_snippets
        cases = list(chat_snippets.cases(random.Random(a.seed), a.random))
        bad, raised = compare(tool, cases, [c[0] for c in cases], max(a.show, 12))
        print(f"{'ok ' if not bad else 'BAD'} {'generated snippets':55} {len(cases)} snippets, {raised} refused by both, {bad} differ")
        total += bad
    if a.mutate and files:
        r = random.Random(a.seed)
        cases = []
        while len(cases) < a.mutate:
            text = open(r.choice(files), encoding="utf-8").read()
            if len(text) > 9000: continue
            for _ in range(r.choice([1, 1, 2])):
                at, n = r.randrange(len(text)), r.choice([1, 1, 2, 5, 30])
                piece = text[at:at + n]
                text = text[:at] + r.choice(["", piece + piece, r.choice(["-", "+", " ", "\n", "%}", "{%", "{{", "}}", "'", "(", ")", "|", ".", "not ", " if x", "{#", "#}", "0", ","]) + piece]) + text[at + n:]
            cases.append((text, r.choice(matrix)[1]))
        bad, raised = compare(tool, cases, ["mutated: " + c[0][:60].replace("\n", " ") for c in cases], max(a.show, 12))
        print(f"{'ok ' if not bad else 'BAD'} {'mutated templates':55} {len(cases)} templates, {raised} refused by both, {bad} differ")
        total += bad
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    main()
