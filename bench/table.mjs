#!/usr/bin/env node
// bench/table: speed side by side with llama.cpp, on one machine in one sitting: each work runs on both, alternating, and the medians of the pairs are printed
// with the ratio that is wanted, the share of the machine's limit, and how exact the numbers are.
//   --rows PATTERN     works and models, as "prompt 512.*l1b" (all)      --columns LIST   of native, avx512, avx512-vnni, avx2-vnni, avx2 (all that this machine has)
//   --reps N           pairs (5)                                          --seconds N      starts nothing that would not be over by then
//   --threads N        of both (2)                                        --through CMD    runs every measurement through it, as "taskset -c 0,1"
//   --no-exact         leaves the errors out                              --record         appends finished rows to bench/results.csv
//   --fresh            measures again what was measured of this program   --print          measures nothing
// PEER_DIR: an installed peer with bench/ models. ALTISERVE_BIN: the program (build/altiserve).
// Pairs are kept in build/bench/ by the program's hash, so a run that was cut goes on where it was: first every row's first pair, then the second.
// Columns: the best tier against the peer's own choice; ours forced to a tier against the peer held to a library of that set.
// NMSE: of logits to those of the same file decoded to float32, median of five token lists, both with the settings that are timed; it may be 1.1 times the peer's, or 1e-4.
import { spawnSync, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { appendFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rest } from './client.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const bin = process.env.ALTISERVE_BIN ?? join(root, 'build/altiserve');
const peerDir = process.env.PEER_DIR ?? join(homedir(), '.cache/altiserve-peer');
const peer = join(peerDir, 'peer');
const fail = (text) => { console.error(`bench: ${text}`); process.exit(1); };

const flags = { rows: '.', columns: '', reps: 5, seconds: Infinity, threads: 2, through: '', exact: true, record: !!process.env.RECORD, fresh: false, print: false };
for (let i = 2; i < process.argv.length; i++) {
  const name = process.argv[i].replace(/^--/, '');
  if (name === 'no-exact') flags.exact = false;
  else if (['record', 'fresh', 'print'].includes(name)) flags[name] = true;
  else if (!(name in flags) || i + 1 >= process.argv.length) fail(`${process.argv[i]} is not a flag, or lacks its value`);
  else flags[name] = typeof flags[name] === 'number' ? Number(process.argv[++i]) : process.argv[++i];
}
const rowPattern = new RegExp(flags.rows);

// ---- what is measured ----------------------------------------------------------------------------

// wanted: ratios with amx, avx512, avx2; prompts and generation of one model come from one run.
const wantedPrompt = { Q4_K_M: [5, 1.6, 1.3], Q4_0: [5, 1.6, 1.3], Q8_0: [4, 1.6, 1.3] };
const wantedGen = { Q4_K_M: [1.75, 1.7, 1.4], Q4_0: [1.25, 1.2, 1.2], Q8_0: [1.08, 1.7, 1.7] };
const jobs = [];
const both = (pp, tg) => [
  { work: 'prompt 512', figure: 'pp', flag: ['--prompt', '512'], wanted: pp },
  { work: 'gen 64', figure: 'tg', flag: ['--gen', '64'], wanted: tg },
];
for (const model of ['l1b', 'q06']) for (const type of ['Q4_K_M', 'Q4_0', 'Q8_0'])
  jobs.push({ model: `${model}-${type}`, parts: both(wantedPrompt[type], wantedGen[type]) });
jobs.push({ model: 'moe-Q4_K_M', parts: both([3.5, 1.5, 1.3], wantedGen.Q4_K_M) });
const q06 = (work, figure, flag, wanted) => jobs.push({ model: 'q06-Q4_K_M', parts: [{ work, figure, flag, wanted }] });
q06('8 at depth 256', 'tg', ['--gen', '32', '--depth', '256', '--parallel', '8'], [4, 2, 1.5]);
q06('prompt 4096', 'pp', ['--prompt', '4096'], [6, 2, 1.5]);
q06('32 at depth 256', 'tg', ['--gen', '16', '--depth', '256', '--parallel', '32'], [4, 2, 1.5]);
q06('gen 64 at 4096', 'tg', ['--gen', '64', '--depth', '4096'], [4, 4, 2.5]);
// What --deterministic costs: ours with it to ours without.
const deterministic = (work, figure, flag) =>
  jobs.push({ model: 'q06-Q4_K_M', deterministic: true, parts: [{ work: `deterministic: ${work}`, figure, flag, wanted: [0.7, 0.7, 0.7] }] });
deterministic('prompt 512', 'pp', ['--prompt', '512']);
deterministic('gen 64', 'tg', ['--gen', '64']);
deterministic('8 at depth 256', 'tg', ['--gen', '32', '--depth', '256', '--parallel', '8']);
for (const job of jobs) job.parts = job.parts.filter((p) => rowPattern.test(`${p.work} ${job.model}`));

if (!existsSync(bin)) fail(`no program at ${bin}: make build`);
if (!existsSync(peer)) fail(`no peer in ${peerDir}: set PEER_DIR`);
const hash = createHash('sha256').update(readFileSync(bin)).digest('hex').slice(0, 12);
const keep = join(root, 'build/bench');
mkdirSync(keep, { recursive: true });

// A folder with the peer's libraries and of those for processors the named one alone.
function held(set) {
  const from = join(peerDir, 'node_modules/@node-llama-cpp/linux-x64/bins/linux-x64'), to = join(keep, `peer-${set}`);
  if (!existsSync(join(from, `libggml-cpu-${set}.so`))) fail(`the peer has no libggml-cpu-${set}.so in ${from}`);
  mkdirSync(to, { recursive: true });
  for (const f of readdirSync(from))
    if ((!f.startsWith('libggml-cpu-') || f === `libggml-cpu-${set}.so`) && !existsSync(join(to, f))) symlinkSync(join(from, f), join(to, f));
  return to;
}
const tiers = ['amx', 'avx512', 'avx512-vnni', 'avx2-vnni', 'avx2'];
const wantedOf = { amx: 0, avx512: 1, 'avx512-vnni': 1, 'avx2-vnni': 2, avx2: 2 }; // the column of wanted ratios
const runs = (tier) => spawnSync(bin, ['bench', 'toy-1', '--cpu', tier, '--prompt', '1', '--gen', '0', '--reps', '1']).status === 0;
const native = JSON.parse(execFileSync(bin, ['bench', 'toy-1', '--prompt', '1', '--gen', '0', '--reps', '1', '--json'], { encoding: 'utf8' })).isa;
const columns = [
  { name: 'native', tier: native, peer: 'native' }, { name: 'avx512', tier: 'avx512', peer: 'zen4' }, { name: 'avx512-vnni', tier: 'avx512-vnni', peer: 'cascadelake' },
  { name: 'avx2-vnni', tier: 'avx2-vnni', peer: 'alderlake' }, { name: 'avx2', tier: 'avx2', peer: 'haswell' }]
  .filter((c, i) => i === 0 || tiers.indexOf(c.tier) > tiers.indexOf(native)) // a machine without AMX has no forced column for its own tier
  .filter((c) => !flags.columns || flags.columns.split(',').includes(c.name))
  .filter((c) => c.name === 'native' || runs(c.tier));
for (const c of columns) c.env = c.name === 'native' ? {} : { PEER_BACKENDS: held(c.peer) };

// ---- measuring -----------------------------------------------------------------------------------

const store = join(keep, `pairs-${hash}-${flags.threads}.jsonl`), began = Date.now();
if (flags.fresh) rmSync(store, { force: true });
const done = existsSync(store) ? readFileSync(store, 'utf8').trim().split('\n').filter(Boolean).map((l) => JSON.parse(l)) : [];
const save = (entry) => { done.push(entry); appendFileSync(store, JSON.stringify(entry) + '\n'); };
const left = () => flags.seconds - (Date.now() - began) / 1000;

function run(program, args, env = {}) {
  const through = flags.through.split(' ').filter(Boolean), argv = [...through, program, ...args];
  const r = spawnSync(argv[0], argv.slice(1), { encoding: 'utf8', env: { ...process.env, GGML_NO_BACKTRACE: '1', ...env }, stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 1 << 26 });
  if (r.status !== 0) fail(`${argv.join(' ')}: ${r.signal ?? `status ${r.status}`}: ${r.stderr.trim().split('\n').pop()}`);
  return r.stdout;
}
const modelFile = (model) => join(peerDir, 'bench', `${model}.gguf`);
// Flags of a run: what is not asked for is 0.
const benchArgs = (job) => {
  const given = job.parts.flatMap((p) => p.flag), args = ['bench', modelFile(job.model), '--reps', '1', '--threads', String(flags.threads), ...given];
  for (const f of ['--prompt', '--gen']) if (!given.includes(f)) args.push(f, '0');
  return args;
};
const same = (e, job, c) => e.kind === 'pair' && e.column === c.name && e.model === job.model
  && !!e.deterministic === !!job.deterministic && job.parts.every((p) => e.works.includes(p.work));

async function measurePair(job, c, rep) {
  const known = done.find((e) => same(e, job, c));
  if (left() < (known?.seconds ?? 1)) return false;
  const t = Date.now(), args = benchArgs(job), cpu = c.name === 'native' ? [] : ['--cpu', c.tier];
  const alone = async (...what) => {
    await rest();
    return JSON.parse(run(...what));
  };
  const ours = () => alone(bin, [...args, ...cpu, '--json']);
  const theirs = () => job.deterministic ? alone(bin, [...args, ...cpu, '--json', '--deterministic']) : alone(peer, args, c.env);
  let a, b;
  if (rep % 2) b = await theirs(), a = await ours();
  else a = await ours(), b = await theirs();
  const entry = { kind: 'pair', column: c.name, model: job.model, deterministic: job.deterministic, works: job.parts.map((p) => p.work),
    seconds: (Date.now() - t) / 1000, ours: a, theirs: b };
  save(entry);
  for (const p of job.parts) console.error(`${c.tier} ${p.work} ${job.model}: ${a[`${p.figure}_tok_s`].toFixed(1)} / ${b[`${p.figure}_tok_s`].toFixed(1)}`);
  return true;
}

const median = (list) => {
  const s = [...list].sort((a, b) => a - b);
  return s.length % 2 ? s[s.length >> 1] : (s[s.length / 2 - 1] + s[s.length / 2]) / 2;
};

// ---- exactness -----------------------------------------------------------------------------------

const SEEDS = [1, 2, 3, 4, 5], TOKENS = 16;
const tokenList = (seed) => { // by a generator of its own
  let s = seed * 101;
  return Array.from({ length: TOKENS }, () => (s = (s * 1103515 + 12345) % 2147483) % 100000).join(' ');
};
const floats = (file) => { const b = readFileSync(file); return new Float32Array(b.buffer, b.byteOffset, b.length >> 2); };
function nmse(file, exactFile) {
  const a = floats(file), b = floats(exactFile);
  if (a.length !== b.length) return NaN;
  let d = 0, s = 0;
  for (let i = 0; i < a.length; i++) d += (a[i] - b[i]) ** 2, s += b[i] ** 2;
  return d / s;
}
const exactOf = (model, seed) => join(keep, `exact-${model}-${seed}.f32`);
function makeExact(model) {
  if (SEEDS.every((s) => existsSync(exactOf(model, s)))) return;
  const whole = join(keep, 'decoded.gguf'), out = join(keep, 'part.f32');
  run(peer, ['quantize', modelFile(model), whole, 'F32']);
  for (const s of SEEDS) {
    run(peer, ['logits', whole, '--tokens', tokenList(s), '--kv-f32', '--no-flash', '--threads', String(flags.threads), '--out', out]);
    writeFileSync(exactOf(model, s), readFileSync(out));
  }
  rmSync(whole);
  rmSync(out);
}
function measureExact(model, c) {
  if (done.some((e) => e.kind === 'exact' && e.model === model && e.column === c.name)) return true;
  const known = done.find((e) => e.kind === 'exact');
  if (left() < (known?.seconds ?? 1)) return false;
  const t = Date.now(), out = join(keep, 'part.f32'), args = (s) => ['logits', modelFile(model), '--tokens', tokenList(s), '--threads', String(flags.threads), '--out', out];
  makeExact(model);
  const each = (f) => median(SEEDS.map((s) => { f(s); return nmse(out, exactOf(model, s)); }));
  const ours = each((s) => run(bin, [...args(s), ...(c.name === 'native' ? [] : ['--cpu', c.tier])]));
  const theirs = each((s) => run(peer, args(s), c.env));
  save({ kind: 'exact', column: c.name, model, seconds: (Date.now() - t) / 1000, ours, theirs });
  rmSync(out, { force: true });
  console.error(`${c.tier} ${model}: NMSE ${ours.toExponential(2)} (llama.cpp ${theirs.toExponential(2)})`);
  return true;
}

// ---- all of it -----------------------------------------------------------------------------------

const chosen = jobs.filter((j) => j.parts.length);
for (const j of chosen) if (!existsSync(modelFile(j.model))) fail(`no ${modelFile(j.model)}: make the peer's bench models`);
const inColumn = (job, c) => !job.deterministic || c.name === 'native';
if (!flags.print) {
  for (let rep = 0; rep < flags.reps; rep++)
    for (const c of columns) for (const job of chosen)
      if (inColumn(job, c) && done.filter((e) => same(e, job, c)).length <= rep) await measurePair(job, c, rep);
  if (flags.exact) for (const c of columns) for (const model of new Set(chosen.filter((j) => !j.deterministic).map((j) => j.model))) measureExact(model, c);
}

const rows = [];
for (const c of columns) for (const job of chosen) for (const p of job.parts) {
  const entries = done.filter((e) => e.kind === 'pair' && e.column === c.name && e.model === job.model && e.works.includes(p.work)).slice(0, flags.reps);
  if (!entries.length || !inColumn(job, c)) continue;
  const key = `${p.figure}_tok_s`, ours = entries.map((e) => e.ours[key]), theirs = entries.map((e) => e.theirs[key]);
  const ratios = entries.map((e) => (job.deterministic ? e.theirs[key] / e.ours[key] : e.ours[key] / e.theirs[key]));
  const limits = entries.map((e) => e.ours[`${p.figure}_limit`]), exact = done.find((e) => e.kind === 'exact' && e.column === c.name && e.model === job.model);
  rows.push({ work: p.work, model: job.model, column: c.name, tier: c.tier, peer: job.deterministic ? 'altiserve --deterministic' : c.peer, n: entries.length,
    ours: median(ours), theirs: median(theirs), ratio: median(ratios), low: Math.min(...ratios), high: Math.max(...ratios), wanted: p.wanted[wantedOf[c.tier] ?? 0],
    share: median(limits.map((l) => l.share)), binds: limits[0].binds, read: median(entries.map((e) => e.ours.read_gb_s)), units: entries[0].ours.units,
    exact: job.deterministic ? undefined : exact });
}

for (const c of columns) {
  const mine = rows.filter((r) => r.column === c.name);
  if (!mine.length) continue;
  const unit = Object.keys(mine[0].units).map((name) => `${name} ${median(mine.map((r) => r.units[name])).toFixed(2)} T/s`);
  const read = median(mine.map((r) => r.read)).toFixed(1), rival = c.peer === 'native' ? 'as it chooses' : `held to ${c.peer}`;
  console.log(`\n${c.tier} against llama.cpp ${rival}; ${flags.threads} threads; memory read at ${read} GB/s, ${unit.join(', ')}`);
  console.log(`${'work'.padEnd(30)} ${'model'.padEnd(11)} altiserve llama.cpp  ratio (spread)        wanted    of the limit          NMSE (llama.cpp's)    pairs`);
  for (const r of mine) {
    const error = r.exact ? `${r.exact.ours.toExponential(1)} (${r.exact.theirs.toExponential(1)})${r.exact.ours <= Math.max(1.1 * r.exact.theirs, 1e-4) ? '' : ' WORSE'}` : '';
    const speed = `${r.work.padEnd(30)} ${r.model.padEnd(11)} ${r.ours.toFixed(1).padStart(9)} ${r.theirs.toFixed(1).padStart(9)} ${r.ratio.toFixed(2).padStart(6)}`;
    console.log(`${speed} (${r.low.toFixed(2)}..${r.high.toFixed(2)})`.padEnd(84)
      + `${String(r.wanted).padStart(5)} ${r.ratio >= r.wanted ? 'yes' : 'NO '} ${(100 * r.share).toFixed(0).padStart(4)} % of ${r.binds}`.padEnd(36)
      + `${error.padEnd(24)} ${r.n}`);
  }
}

if (flags.record) {
  const csv = join(root, 'bench/results.csv'), git = (...a) => execFileSync('git', ['-C', root, ...a], { encoding: 'utf8' }).trim();
  const commit = git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '--untracked-files=no', '--', ':!bench/results.csv') ? '+' : '');
  const cpu = (existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8').match(/model name\s*:\s*(.*)/)?.[1] ?? '' : '').replaceAll(',', ' ');
  const date = new Date().toISOString().slice(0, 10);
  if (!existsSync(csv))
    writeFileSync(csv, 'date,commit,cpu,threads,tier,peer,work,model,pairs,altiserve_tok_s,peer_tok_s,ratio,ratio_low,ratio_high,'
      + 'wanted,share_of_limit,binds,read_gb_s,unit_tops,nmse,peer_nmse\n');
  for (const r of rows)
    appendFileSync(csv, [date, commit, cpu, flags.threads, r.tier, r.peer, r.work, r.model, r.n, r.ours.toFixed(2), r.theirs.toFixed(2),
      r.ratio.toFixed(3), r.low.toFixed(3), r.high.toFixed(3), r.wanted, r.share.toFixed(3), r.binds, r.read.toFixed(1),
      Object.values(r.units)[0].toFixed(3), r.exact?.ours.toExponential(2) ?? '', r.exact?.theirs.toExponential(2) ?? ''].join(',') + '\n');
}
