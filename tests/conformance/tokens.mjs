// Token ids against the peer's: every .inp file, random strings by seed, and a long mixed text, for every vocabulary that the peer's folder
// has, and for every tokenizer.ggml.pre and the kinds without a vocabulary there by files made here.
//   PEER_DIR=... node tests/conformance/tokens.mjs [--n STRINGS] [--seed S] [--only PART | NAME$] [--mb MEGABYTES]
// The program under test is $ALTISERVE_BIN where it knows `tokenize`, else $TOK_TOOL (tests/conformance/tok_tool.c); files are made by $TOK_TOOL.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

const peerDir = process.env.PEER_DIR;
if (!peerDir || !existsSync(join(peerDir, 'peer'))) {
  console.log('tokens: skipped, PEER_DIR has no peer');
  process.exit(0);
}
const arg = (name, def) => { const i = process.argv.indexOf(`--${name}`); return i < 0 ? def : process.argv[i + 1]; };
const count = Number(arg('n', 1000)), seed0 = Number(arg('seed', 1)), only = arg('only', ''), mb = Number(arg('mb', 0));
const peer = join(peerDir, 'peer'), models = join(peerDir, 'data/models'), tool = process.env.TOK_TOOL;
const SEP = '__altiserve_record__', END = Buffer.from(`\n${SEP}\n`), sample = count < 100;
const dir = mkdtempSync(join(tmpdir(), 'tokens-'));

function ours() {
  const bin = process.env.ALTISERVE_BIN;
  if (bin && existsSync(bin)) {
    const r = spawnSync(bin, ['tokenize', join(models, 'ggml-vocab-gpt-2.gguf')], { input: 'a\n' });
    if (r.status === 0) return bin;
  }
  return tool;
}
const program = ours();
if (!program) {
  console.log('tokens: skipped, neither ALTISERVE_BIN with `tokenize` nor TOK_TOOL');
  process.exit(0);
}

// xorshift, so that a seed gives the same strings everywhere
function random(seed) {
  let x = (seed * 2654435761 + 12345) >>> 0 || 1;
  return (n) => { x ^= x << 13; x >>>= 0; x ^= x >>> 17; x ^= x << 5; x >>>= 0; return x % n; };
}

const WORDS = `the of and to in is that it was for hello world Hello WORLD camelCase snake_case it's don't WE'LL I'd you're they've x'y
  function return if else while const let int void #include <stdio.h> std::vector<int> => != === && || ++ -- // /* */ {} [] () ; : , . ... "quoted" 'q'
  naïve café Ünïcödé straße Łódź привет мир здравствуй Ελληνικά γλώσσα 你好 世界 中文字符 日本語 ひらがな カタカナ 한국어 안녕하세요 ภาษาไทย สวัสดี नमस्ते हिन्दी বাংলা தமிழ் עברית שלום العربية مرحبا
  🙂 👍🏽 👩‍👩‍👧 🇩🇪 ❤️ 🚀🚀 ½ ² ٣٤٥ Ⅷ ① 𝔘𝔫𝔦 ﬁ ß ŉ e\u0301 a\u0300\u0301 \u200b \u200d \ufeff \u00a0 \u3000 \u2028 \u0085
  … “ ” ‘ ’ — ， 。 、 ！ ？ € $ £ ~ \` ^ | ★ → ∑ ≤ 〇 㐀 𠀀 豈 ꙮ`.split(/[ \n]+/);
const SPACES = [' ', '  ', '   ', '\n', '\n\n', '\r\n', '\t', '\t\t', ' \n', '\n ', ' \t ', '    ', '        ',
  '\u000b', '\f', '\r', '\u00a0', '\u3000', '\u2003', '\u0085', ' '.repeat(33)];

function string(rnd, specials) {
  const parts = [];
  const kind = rnd(8), n = 1 + rnd(24);
  const code = () => {
    const k = rnd(10);
    if (k < 3) return rnd(128);
    if (k < 5) return rnd(0x800);
    if (k < 8) { const c = rnd(0x10000); return c >= 0xD800 && c < 0xE000 ? 0x4E00 + c % 0x1000 : c; }
    if (k < 9) return 0x1F000 + rnd(0x1000);
    return 0x10000 + rnd(0xF0000);
  };
  for (let i = 0; i < n; i++) {
    const k = kind === 7 ? rnd(7) : kind;
    if (k === 0 || k === 1) parts.push(Buffer.from(WORDS[rnd(WORDS.length)] + (rnd(3) ? ' ' : SPACES[rnd(SPACES.length)])));
    else if (k === 2) parts.push(Buffer.from(String.fromCodePoint(code())));
    else if (k === 3) parts.push(Buffer.from(SPACES[rnd(SPACES.length)] + (rnd(3) ? '' : WORDS[rnd(WORDS.length)])));
    else if (k === 4) {
      const s = specials.length ? specials[rnd(specials.length)] : '<|x|>';
      parts.push(Buffer.from(rnd(3) ? s : s.slice(0, rnd(s.length) + 1)), Buffer.from(rnd(2) ? '' : WORDS[rnd(WORDS.length)]));
    } else if (k === 5) { // broken: any bytes but those the peer cannot take
      const b = rnd(3) ? 0x80 + rnd(0x80) : rnd(0x100);
      parts.push(Buffer.from([b >= 0xF4 && b <= 0xF7 ? 0xE2 : b]));
    } else parts.push(Buffer.from('0123456789abcXYZ_- .,'[rnd(21)].repeat(1 + rnd(12)) + (rnd(2) ? String(rnd(1e9)) : '')));
  }
  return Buffer.concat(parts);
}

// An overlong space is a space to the peer, and it aborts where a space is no piece's beginning (gemma-4's kind).
const overlongSpace = (s) => s.includes('\xC0\xA0', 0, 'latin1') || s.includes('\xE0\x80\xA0', 0, 'latin1') || s.includes('\xF0\x80\x80\xA0', 0, 'latin1');

// `n` records, and after them `megabytes` of mixed text in records of 64 KB (in longer ones the peer is quadratic).
function records(seed, n, specials, megabytes = 0) {
  const rnd = random(seed), out = [];
  const take = () => { const s = string(rnd, specials); return s.includes(SEP) || overlongSpace(s) ? Buffer.from('x') : s; };
  for (let i = 0; i < n; i++) out.push(take(), END);
  for (let k = 0; k < megabytes * 16; k++) {
    for (let size = 0; size < 62500;) { const s = take(); out.push(s, Buffer.from(' ')); size += s.length + 1; }
    out.push(END);
  }
  return Buffer.concat(out);
}

const run = (bin, args, input) => {
  const r = spawnSync(bin, args, { input, maxBuffer: 1 << 30, env: { ...process.env, GGML_NO_BACKTRACE: '1' } });
  return { out: r.stdout.toString(), status: r.status, err: r.stderr.toString() };
};

function compare(name, model, input, args, sep = SEP) {
  const all = ['tokenize', model, '--separator', sep, ...args];
  const a = run(program, all, input), b = run(peer, all, input);
  if (b.status !== 0) return { name, text: `peer failed: ${b.err.trim().split('\n').pop().slice(0, 100)}`, bad: 0, skipped: true };
  if (a.status !== 0) return { name, text: `failed: ${a.err.slice(0, 200)}`, bad: 1 };
  const x = a.out.split('\n'), y = b.out.split('\n');
  let bad = 0, first = -1;
  for (let i = 0; i < Math.max(x.length, y.length); i++) if (x[i] !== y[i]) { bad++; if (first < 0) first = i; }
  let text = '';
  if (bad) {
    const rec = input.toString('latin1').split(`\n${sep}\n`)[first] ?? '';
    text = `\n    record ${first}: ${JSON.stringify(Buffer.from(rec, 'latin1').toString().slice(0, 200))}`
      + `\n    ours ${(x[first] ?? '').slice(0, 200)}\n    peer ${(y[first] ?? '').slice(0, 200)}`;
  }
  return { name, text, bad, n: y.length - 1, lines: x };
}

// Bytes of valid UTF-8 that these vocabularies have no token for (nothing in tokenizer.ggml.tokens spells them): the peer drops them as well.
const NO_TOKEN = { refact: [0xF1], starcoder: [0xF1], falcon: [0x03, 0x04, 0x05, 0x0B, 0x11, 0x13, 0x14, 0x15, 0x16, 0x17, 0x19, 0x1C, 0x1D, 0x1E, 0xF2] };

// Text out of ids: as the peer prints it, and (without its tidying of spaces) the very bytes that went in, where they were valid UTF-8.
function compareText(name, model, specials) {
  const rnd = random(seed0 + 2), texts = [];
  while (texts.length < 200) {
    const s = string(rnd, specials);
    if (!s.includes(SEP) && s.equals(Buffer.from(s.toString())) && !s.some((b) => NO_TOKEN[name]?.includes(b))) texts.push(s);
  }
  const input = Buffer.concat(texts.flatMap((t) => [t, END]));
  const lines = run(tool, ['tokenize', model, '--no-parse-special', '--separator', SEP], input).out.split('\n').slice(0, texts.length);
  const ids = lines.join(' ').replace(/ +/g, ' ').trim().split(' ').slice(0, 12000).join(' ');
  const back = (args, input2) => { // lengths, each on a line before its text
    const out = [], r = spawnSync(tool, ['detokenize', model, ...args], { input: input2, maxBuffer: 1 << 28 }).stdout;
    for (let at = 0, end; (end = r.indexOf(10, at)) >= 0;) { const from = end + 1; at = from + Number(r.subarray(at, end).toString()); out.push(r.subarray(from, at)); }
    return out;
  };
  let bad = 0, text = '';
  const exact = back(['--exact'], lines.join('\n') + '\n');
  texts.forEach((want, i) => { if (!exact[i]?.equals(want)) { bad++; text ||= `\n    ${JSON.stringify(want.toString())}\n    ${JSON.stringify(exact[i]?.toString())}`; } });
  // bert normalizes.
  if (!/^(bert-bge|nomic-bert-moe)$/.test(name)) report({ name: `${name} back to the same bytes`, bad, n: texts.length, text });
  const a = back([], ids + '\n')[0];
  const b = spawnSync(peer, ['detokenize', model, '--tokens', ids], { maxBuffer: 1 << 28 });
  const same = a.equals(b.stdout);
  let at = 0;
  while (!same && a[at] === b.stdout[at]) at++;
  const around = (x) => JSON.stringify(x.subarray(at - 20, at + 20).toString('latin1'));
  report({ name: `${name} detokenize`, bad: same ? 0 : 1, n: 1, skipped: b.status !== 0, text: same ? '' : `\n    at ${at}: ${around(a)} ${around(b.stdout)}` });
}

const lookalikes = (model) => tool
  ? execFileSync(tool, ['specials', model]).toString().split('\0').filter(Boolean).slice(0, 400)
  : ['<|im_end|>', '</s>', '<s>', '<|eot_id|>', '[UNK]'];

const jobs = []; // [name, model, inp file or null]
for (const f of readdirSync(models).filter((n) => n.startsWith('ggml-vocab-') && n.endsWith('.gguf'))) {
  const inp = join(models, `${f}.inp`);
  jobs.push([f.slice(11, -5), join(models, f), existsSync(inp) ? inp : null]);
}
if (tool) {
  const pres = execFileSync(tool, ['pres']).toString().trim().split(/\s+/);
  for (const pre of pres) {
    if (only && !only.endsWith('$') && !`pre:${pre}`.includes(only)) continue;
    const base = ['gemma4', 'sarvam-moe', 'granite-embed-multi-311m'].includes(pre) ? 'gemma-4' : sample ? 'gpt-2' : 'llama-bpe'; // gpt-2's loads faster
    if (pre === 'whitespace') continue; // kind:whitespace has it: the peer takes it with no other vocabulary
    jobs.push([`pre:${pre}`, null, null, ['repre', join(models, `ggml-vocab-${base}.gguf`), join(dir, `${pre}.gguf`), pre]]);
  }
  for (const kind of ['t5', 't5-merge', 'rwkv', 'plamo2', 'hybriddna', 'whitespace', 'bert-cased'])
    jobs.push([`kind:${kind}`, null, null, ['make', join(models, 'ggml-vocab-llama-spm.gguf'), join(dir, `${kind}.gguf`), kind]]);
}

let failures = 0;
function report(r) {
  if (r.bad) failures++;
  console.log(`${r.bad ? 'FAIL' : r.skipped ? 'skip' : 'ok  '} ${r.name.padEnd(44)} ${r.n ?? 0} records ${r.bad ? `${r.bad} differ` : ''} ${r.text}`);
}
for (const [name, path, inp, make] of jobs) {
  if (only && (only.endsWith('$') ? name !== only.slice(0, -1) : !name.includes(only))) continue;
  let model = path;
  if (make) {
    execFileSync(tool, make);
    model = make[2];
  }
  const specials = lookalikes(model);
  if (inp) {
    const sep = '__ggml_vocab_test__';
    const r = compare(`${name} ${basename(inp)}`, model, readFileSync(inp), ['--no-parse-special'], sep);
    report(r);
    const want = readFileSync(inp.replace('.inp', '.out'), 'latin1').split('\n').map((l) => l.trim());
    const got = r.lines ?? [];
    const bad = want.filter((l, i) => l !== (got[i] ?? '')).length;
    report({ name: `${name} .out`, bad, n: want.length, text: '' });
  }
  // Half of the strings each way.
  report(compare(`${name} random --special`, model, records(seed0, count / 2, specials, make ? 0 : mb), ['--special']));
  if (!(sample && make)) report(compare(`${name} random --no-parse-special`, model, records(seed0 + 1, count / 2, specials), ['--no-parse-special']));
  if (tool && !make) compareText(name, model, specials);
  if (make) rmSync(model, { force: true });
}
rmSync(dir, { recursive: true, force: true });
console.log(failures ? `tokens: ${failures} comparisons differ` : 'tokens: all the same');
process.exit(failures ? 1 : 0);
