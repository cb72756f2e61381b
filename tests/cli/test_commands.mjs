// The commands that look inside, as a script uses them: what they take, what they refuse, and with which status.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, writeFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
const bin = process.env.ALTISERVE_BIN;
const dir = mkdtempSync(join(tmpdir(), 'altiserve-commands-'));
const run = (args, input = '') => spawnSync(bin, args, { encoding: 'utf8', input, env: { PATH: process.env.PATH } });
const ok = (args, input) => {
  const r = run(args, input);
  assert.equal(r.status, 0, `${args.join(' ')}: ${r.stderr}`);
  return r.stdout;
};
const refused = (args, message) => {
  const r = run(args);
  assert.notEqual(r.status, 0, args.join(' '));
  assert.equal(r.signal, null);
  assert.match(r.stderr, message);
};

// There and back, by pipe and by flag.
const text = 'How do I add\na model?';
const ids = ok(['tokenize', 'toy-1', '--text', text]).trim();
assert.match(ids, /^\d+( \d+)+$/);
assert.equal(ok(['detokenize', 'toy-1'], ids), text);
assert.equal(ok(['detokenize', 'toy-1', '--tokens', ids]), text);
assert.equal(ok(['tokenize', 'toy-1'], text).trim().split('\n').length, 2); // a line a record
assert.equal(ok(['detokenize', 'toy-1'], ''), '');
refused(['detokenize', 'toy-1', '--tokens', '1 x'], /"x"/);

// A folder that was named must be there; a broken file is an error to a script, too.
const file = join(dir, 'broken.gguf');
writeFileSync(file, 'this is no model');
refused(['tokenize', 'toy-1', '--models', join(dir, 'nowhere'), '--text', 'x'], /no such folder/);
refused(['serve', '--port', '0', '--models', file], /no such folder/);
for (const more of [[], ['--json']]) {
  const r = run(['inspect', file, ...more]);
  assert.equal(r.status, 1);
  assert.match(r.stdout, /broken/);
}
assert.match(ok(['inspect', 'toy-1']), /toy-1/);

rmSync(dir, { recursive: true });
console.log('commands: all passed');
