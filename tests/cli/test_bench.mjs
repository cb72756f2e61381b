// `altiserve bench`: speed, the machine's limit and the share of it, in JSON and as text.
import { execFileSync } from 'node:child_process';
import assert from 'node:assert/strict';
const bin = process.env.ALTISERVE_BIN;
const bench = (...args) => execFileSync(bin, ['bench', 'toy-1', '--threads', '2', '--reps', '1', ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

const r = JSON.parse(bench('--prompt', '40', '--gen', '4', '--depth', '8', '--parallel', '2', '--json'));
assert.equal(r.engine, 'altiserve');
assert.deepEqual([r.prompt, r.gen, r.depth, r.parallel, r.threads, r.device], [40, 4, 8, 2, 2, 'cpu']);
assert.ok(r.read_gb_s > 0 && Object.keys(r.units).length >= 1 && Object.values(r.units).every((v) => v > 0));
const unit = Object.entries(r.units)[0];
for (const [speed, limit] of [[r.pp_tok_s, r.pp_limit], [r.tg_tok_s, r.tg_limit]]) {
  assert.ok(speed > 0 && limit.token_gop > 0 && limit.token_mb > 0);
  assert.ok(Math.abs(limit.share - speed / limit.tok_s) < 1e-3, 'the share is the speed over the limit');
  assert.ok(limit.binds === 'memory' || limit.binds === unit[0]);
  // no step is faster than either of its terms
  assert.ok(limit.tok_s <= 1.01 * (r.read_gb_s * 1e3) / limit.token_mb && limit.tok_s <= 1.01 * (unit[1] * 1e3) / limit.token_gop);
}
// A step of two sequences reads the weights once for both: half a token's bytes of one sequence, and keys.
const one = JSON.parse(bench('--prompt', '0', '--gen', '4', '--json'));
assert.equal(one.pp_limit, undefined);
assert.ok(r.tg_limit.token_mb > one.tg_limit.token_mb / 2 && r.tg_limit.token_mb < 0.6 * one.tg_limit.token_mb);
const text = bench('--prompt', '40', '--gen', '4');
assert.match(text, /prompt 40: .* % of the limit of .*: (memory|.*) binds/);
assert.match(text, /this machine: memory read at [\d.]+ GB\/s; /);
console.log('bench: all passed');
