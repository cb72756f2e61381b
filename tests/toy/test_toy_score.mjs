// toy-1 asked for real: the program with an empty models folder, the 200 held-out questions of heldout.tsv over
// /v1/chat/completions at temperature 0, eight at a time. At least 85 % must hold every required part.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const program = process.env.ALTISERVE_BIN ?? 'build/altiserve';
const source = process.env.SOURCE_DIR ?? '.';
const questions = readFileSync(join(source, 'tests/toy/heldout.tsv'), 'utf8').split('\n')
  .filter((line) => line && !line.startsWith('#')).map((line) => line.split('\t'))
  .map(([text, required]) => ({ text, required: required.split('|') }));
if (questions.length !== 200) throw new Error(`heldout.tsv holds ${questions.length} questions, not 200`);

const port = await new Promise((resolve) => {
  const probe = createServer().listen(0, '127.0.0.1', () => {
    const free = probe.address().port;
    probe.close(() => resolve(free));
  });
});
const models = mkdtempSync(join(tmpdir(), 'toy-score-'));
const server = spawn(program, ['serve', '--models', models, '--port', String(port)], { stdio: ['ignore', 'pipe', 'pipe'] });
let log = '';
server.stdout.on('data', (data) => { log += data; });
server.stderr.on('data', (data) => { log += data; });
const gone = new Promise((resolve) => server.on('exit', resolve));
const base = `http://127.0.0.1:${port}`;

async function ready() {
  for (let tries = 0; tries < 600; tries++) {
    if (server.exitCode !== null) throw new Error(`the server ended: ${log}`);
    try { if ((await fetch(`${base}/health`)).ok) return; } catch { /* not listening yet */ }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`no answer on /health: ${log}`);
}

async function ask(question) {
  const reply = await fetch(`${base}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'toy-1', temperature: 0, max_tokens: 160, messages: [{ role: 'user', content: question.text }] }),
  });
  const body = await reply.json();
  if (!reply.ok) throw new Error(`${reply.status}: ${JSON.stringify(body)}`);
  question.answer = body.choices[0].message.content;
  question.right = question.required.every((part) => question.answer.toLowerCase().includes(part));
}

let failed = true;
try {
  await ready();
  const list = await (await fetch(`${base}/v1/models`)).json();
  if (!list.data.some((model) => model.id === 'toy-1')) throw new Error('toy-1 is not listed by /v1/models');
  let next = 0;
  await Promise.all(Array.from({ length: 8 }, async () => {
    while (next < questions.length) await ask(questions[next++]);
  }));
  const right = questions.filter((question) => question.right).length;
  for (const { text, required, answer } of questions.filter((question) => !question.right)) console.log(`  ${text} [${required.join('|')}] -> ${answer}`);
  console.log(`toy-1: ${right} of ${questions.length} held-out questions right`);
  failed = right < 0.85 * questions.length;
} catch (error) {
  console.error(String(error));
} finally {
  server.kill('SIGTERM');
  await gone;
  rmSync(models, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
