#!/usr/bin/env python3
"""Writes docs/MODELS.md from what the conformance scripts printed.
  report.py LOGS > docs/MODELS.md      LOGS: a folder of *.log, whole runs or pieces; of a row that stands in several the last counts
What these logs do not have is kept from docs/MODELS.md as it stands, and marked as of an earlier run.
Architectures and the reasons of those that are out are read from src/model/model_table.c, so that no row can be missing."""
import glob
import os
import re
import sys

PART = " (part: the run was cut)"
NO_FILE = ("F32", "F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K")  # tensor types of the format that the peer's quantize has no file type for
STRINGS = 20000  # of a vocabulary in a whole run
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def architectures():
    """[(name, reason it is out or None)] in the table's order."""
    out = []
    text = open(os.path.join(ROOT, "src/model/model_table.c"), encoding="utf-8").read()
    for m in re.finditer(r'\{\.name = "([^"]+)"|OUT\("([^"]+)", "([^"]+)"\)', text):
        if m[1]: out.append((m[1], None))
        elif m[2]: out.append((m[2], m[3]))
    return out


class Logs:
    def __init__(self, folder):
        self.logits, self.embed, self.quant, self.weights, self.vocab, self.templates, self.served = {}, {}, {}, {}, {}, {}, {}
        self.head = None
        for path in sorted(glob.glob(os.path.join(folder, "*.log"))):
            for line in open(path, encoding="utf-8", errors="replace"): self.line(line.rstrip("\n"))

    def line(self, s):
        if m := re.match(r"(\S+)\s+(\S+)\s+F32\s+(\S+)\s+(holds|OUT OF BOUND).* \((\S+)\)$", s):
            self.logits.setdefault(m[2], {})[m[1]] = (float(m[3]), float(m[5]), m[4] == "holds")
        elif m := re.match(r"(\S+)\s+(\S+)\s+embed\s+(\S+)\s+(holds|OUT OF BOUND) \((\S+)\)$", s):
            self.embed.setdefault(m[2], {})[m[1]] = (float(m[3]), float(m[5]), m[4] == "holds")
        elif m := re.match(r"(\S+)\s+(\S+)\s+served (.*\S)\s+(holds|DIFFERS)$", s):
            n = re.match(r"(\d+) kept, (\d+) preempted", m[3])
            self.served.setdefault(m[2], {})[m[1]] = (int(n[1]) if n else 0, int(n[2]) if n else 0, m[4] == "holds")
        elif m := re.match(r"(quant-\S+)\s+(\S+)\s+(\S+)\s+(holds|OUT OF BOUND) \(the peer (\S+)\)$", s):
            self.quant[(m[1], m[2])] = (float(m[3]), float(m[5]), m[4] == "holds")
        elif m := re.match(r"(dense|gqa|moe|falcon|slow|slowmoe|layer) (\S+)(?: (.*))?: (holds|OUT)$", s):
            self.head = (m[2], m[1], (m[3] or "").strip())
            self.weights.setdefault(m[2], {})[self.head[1:]] = [m[4] == "holds", [], None]
        elif self.head and (m := re.match(r"\s+(\S+)\s+(\d+) weights\s+decoded otherwise (\d+)\s+NMSE peer (\S+) ours (\S+) \((\S+)\)(?:  OUT)?$", s)):
            self.weights[self.head[0]][self.head[1:]][1].append((m[1], int(m[2]), int(m[3]), float(m[4]), float(m[5]), float(m[6])))
        elif self.head and (m := re.match(r"\s+logits\s+NMSE peer (\S+) ours (\S+) \((\S+)\)", s)):
            self.weights[self.head[0]][self.head[1:]][2] = float(m[3])
        elif m := re.match(r"(ok|FAIL|skip|BAD)\s+(\S+) (.+?)\s+(\d+) records\s*(?:(\d+) differ)?", s):
            self.vocab.setdefault(m[2], {})[m[3].strip()] = (int(m[4]), int(m[5] or 0), m[1] == "skip")
        elif m := re.match(r"(ok|BAD)\s+(\S.*?)\s{2,}(\d+) (\S+), (.*)$", s):
            self.templates[m[2]] = (int(m[3]), m[4], m[5], m[1] == "ok")


def table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for r in rows: yield "| " + " | ".join(str(c) for c in r) + " |"
    yield ""


def number(x): return "0" if x == 0 else f"{x:.1e}"


def worst_of(name, models):
    worst = max(models.values(), key=lambda v: v[0] / v[1])
    return (f"`{name}`", len(models), number(worst[0]), f"{worst[1]:.0e}", "holds" if all(v[2] for v in models.values()) else "**out of bound**")


def of_architectures(logs, old):
    known = architectures()
    out = [(f"`{name}`", why) for name, why in known if why]
    held = [worst_of(name, logs.logits[name]) for name, why in known if not why and name in logs.logits]
    pooled = [worst_of(name, logs.embed[name]) for name, why in known if not why and name in logs.embed]
    bare = [f"`{name}`" for name, why in known if not why and name not in logs.logits and name not in logs.embed
            and not any((("Architectures", i), f"`{name}`") in old for i in (0, 1))]
    yield f"## Architectures: {sum(not why for _, why in known) - len(bare)} held"
    yield ""
    yield "Normalised mean square error of all logits, float32 weights, random models of each architecture and of other sizes (six heads of 32 on two of keys, widths"
    yield "that no vector divides, where the peer takes them): 1 to 700 tokens (40 for models of many layers), the prompt in one piece, in chunks of 7, and batched with"
    yield "strangers. The figure is the worst, relative to its bound."
    yield ""
    yield from table(("architecture", "models", "worst NMSE", "bound", ""), held)
    yield "Embeddings and scores: of encoders, and of decoders that embed, by every way of pooling; 1 to 200 tokens, and a text."
    yield ""
    yield from table(("architecture", "models", "worst NMSE", "bound", ""), pooled)
    if bare:
        yield "Built, and not held by this run: " + ", ".join(bare) + "."
        yield ""
    yield f"## Architectures that are out: {len(out)}"
    yield ""
    yield "A file of one of these is refused by name when it is found, with the reason."
    yield ""
    yield from table(("architecture", "why"), out)


def of_service(logs):
    yield "## Served"
    yield ""
    yield "Three turns of a conversation give the same tokens with the prefix cache as without, and so do clients at once in the least memory that a model can be served"
    yield "in, against each alone. What was found of earlier turns, and how often a sequence was put back for want of pages, over all models of an architecture."
    yield ""
    rows = [(f"`{name}`", len(v), sum(x[0] for x in v.values()), sum(x[1] for x in v.values()), "holds" if all(x[2] for x in v.values()) else "**differs**")
            for name, v in ((name, logs.served[name]) for name, why in architectures() if name in logs.served)]
    yield from table(("architecture", "models", "tokens kept", "preempted", ""), rows)


def of_types(logs):
    yield "## File types"
    yield ""
    yield "Logits: NMSE against the same file decoded to float32, median of five lists of 200 tokens, altiserve's and the peer's on the same file (bound: 1.1 times the"
    yield "peer's, or 1e-4); several figures where several models were held. Weights: NMSE of what `quantize` writes against the float32 file, relative to the peer's file of the same name, worst and best of a"
    yield "tensor type over several models, with and without an importance matrix; and how many weights of the peer's file decode to another value here. Logits written: NMSE of the logits of what"
    yield "`quantize` writes, decoded to float32, against the float32 model's, relative to the peer's file of the same name, worst and best of those models (bound: 1.025)."
    yield ""
    names = list(dict.fromkeys([t for _, t in logs.quant] + list(logs.weights)))
    rows = []
    for t in names:
        q = [v for (m, n), v in logs.quant.items() if n == t]
        w = [x for v in logs.weights.get(t, {}).values() for x in v[1]]
        written = [v[2] for v in logs.weights.get(t, {}).values() if v[2] is not None]
        ok = all(v[2] for v in q) and all(v[0] for v in logs.weights.get(t, {}).values())
        rows.append((f"`{t}`", " ".join(number(v[0]) for v in q) or "–", " ".join(number(v[1]) for v in q) or "–",
                     f"{max(x[5] for x in w):.3f}" if w else "–", f"{min(x[5] for x in w):.3f}" if w else "–", sum(x[2] for x in w) if w else "–",
                     f"{max(written):.3f}" if written else "–", f"{min(written):.3f}" if written else "–", ("holds" if ok else "**out**") + ("" if w or t == "NVFP4" else PART)))
    yield from table(("file type", "logits", "the peer's", "weights, worst", "best", "decoded otherwise", "logits written, worst", "best", ""), rows)
    tensors = {}
    for v in logs.weights.values():
        for _, lines, _ in v.values():
            for x in lines: tensors.setdefault(x[0], []).append(x)
    yield "## Tensor types"
    yield ""
    yield from table(("tensor type", "weights compared", "decoded otherwise", "NMSE to the peer's, worst"),
                     [(f"`{t}`", sum(x[1] for x in v), sum(x[2] for x in v), f"{max(x[5] for x in v):.3f}") for t, v in sorted(tensors.items())]
                     + [(f"`{t}`", "–", "–", "–") for t in NO_FILE if t not in tensors])
    yield "Types without a figure: the peer writes no weights in them but float32, which the logits of all architectures above are of; `tests/quant` holds how they are decoded."
    yield ""


def of_vocabularies(logs):
    yield "## Vocabularies and pre-tokenizers"
    yield ""
    yield "Ids against the peer's: its `.inp` texts, random strings by seed (words of many scripts, code, whitespace runs, look-alikes of special tokens, broken"
    yield "UTF-8) with and without special tokens, and a long mixed text; and text from ids, byte for byte. `pre:` rows are a vocabulary under another"
    yield "`tokenizer.ggml.pre`, `kind:` rows a vocabulary made for the test."
    yield ""
    rows = []
    for name, parts in logs.vocab.items():
        ids = [v for k, v in parts.items() if "back to" not in k and "detokenize" not in k]
        back = [v for k, v in parts.items() if "back to" in k or "detokenize" in k]
        skipped = sum(v[2] for v in parts.values())
        say = "holds" if not any(v[1] for v in parts.values()) else "**differs**"
        if sum(v[0] for v in ids) < STRINGS: say += PART
        if skipped: say += f"; {skipped} texts that the peer cannot take"
        rows.append((f"`{name}`", sum(v[0] for v in ids), sum(v[1] for v in ids), sum(v[0] for v in back) or "–", sum(v[1] for v in back) if back else "–", say))
    yield from table(("vocabulary", "strings", "other ids", "texts back", "differ", ""), rows)


def of_templates(logs):
    yield "## Chat templates"
    yield ""
    yield "Rendered text against Jinja2's, set up as transformers does, over a matrix of conversations."
    yield ""
    yield from table(("template", "cases", "", ""), [(f"`{n}`" if "." in n else n, f"{v[0]} {v[1]}", v[2], "holds" if v[3] else "**differs**") for n, v in logs.templates.items()])


KEPT = ("Architectures", "File types", "Tensor types", "Vocabularies and pre-tokenizers", "Chat templates", "Served")
EARLIER = "; earlier run"


def places(lines):
    """Of every line: (heading without its figure, number of the table in the section), or None outside of KEPT."""
    heading, number = "", -1
    for line in lines:
        if line.startswith("## "): heading, number = line[3:].split(":")[0], -1
        if line.startswith("|---"): number += 1
        yield (heading, number) if heading in KEPT else None


def tables(lines):
    """(place, first cell) -> cells of every row."""
    rows = {}
    for line, place in zip(lines, places(lines)):
        if line.startswith("| ") and place:
            cells = [c.strip() for c in line.strip("|").split(" | ")]
            rows[(place, cells[0])] = cells
    return rows


def kept(lines, old):
    """The lines with what only the old file has: cells in place of a dash, rows at a table's end."""
    new, out = tables(lines), []
    reasons = {name for name, why in architectures() if why}

    def mark(cells, place):
        part = PART if place[0] == KEPT[3] and int(cells[1]) < STRINGS and PART not in cells[-1] else ""
        return cells[:-1] + [cells[-1] + part + ("" if EARLIER in cells[-1] else EARLIER)]

    row = lambda cells: "| " + " | ".join(cells) + " |"
    for line, place in zip(lines, places(lines)):
        if line.startswith("| ") and place and place[1] >= 0:
            cells = new[(place, line.strip("|").split(" | ")[0].strip())]
            before = old.get((place, cells[0]), [])
            filled = [b if c == "–" and b != "–" else c for c, b in zip(cells, before)] if len(before) == len(cells) else cells
            if filled != cells: filled[-1] = filled[-1].replace(PART, "") + "; in part of an earlier run"
            line = row(filled)
        elif not line and out and out[-1].startswith("|") and place:
            out += [row(mark(cells, place)) for (where, first), cells in old.items()
                    if where == place and (place, first) not in new and cells[1] != "0" and first.strip("`") not in reasons]
        out.append(line)
    return out


def main():
    if len(sys.argv) != 2: sys.exit("usage: report.py LOGS > docs/MODELS.md")
    logs = Logs(sys.argv[1])
    print("# What was held against its references\n")
    print("Written by `make conformance` (tests/conformance/report.py) from its own output; do not edit. References: llama.cpp (ids, logits, quantized files) and")
    print("Jinja2 (templates). CI runs a sample of each part. What the last run did not reach is of an earlier one and says so.\n")
    old = tables(open(os.path.join(ROOT, "docs/MODELS.md"), encoding="utf-8").read().split("\n"))
    lines = list(of_architectures(logs, old))
    for part in (of_service, of_types, of_vocabularies, of_templates): lines += part(logs)
    print("\n".join(kept(lines, old)))


main()
