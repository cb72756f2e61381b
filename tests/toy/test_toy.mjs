// toy-1 through the real server: at least 85 % of the held-out questions are answered with the right fact.
// heldout.tsv: question <TAB> texts that the answer must hold, lower case, separated by |.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const models = mkdtempSync(join(tmpdir(), 'no-models-'));
const server = spawn(process.env.ALTISERVE_BIN, ['serve', '--port', '0', '--models', models, '--log-level', 'error'], { stdio: ['ignore', 'pipe', 'inherit'] });
const url = await new Promise((resolve, reject) => {
  let text = '';
  server.stdout.on('data', (part) => {
    const found = (text += part).match(/listening on (\S+)/);
    if (found) resolve(found[1]);
  });
  server.on('exit', (code) => reject(new Error(`the server ended with ${code}: ${text}`)));
});
const rows = readFileSync(join(process.env.SOURCE_DIR, 'tests/toy/heldout.tsv'), 'utf8').split('\n').filter((l) => l && !l.startsWith('#')).map((l) => l.split('\t'));
async function ask(question) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST', headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'toy-1', temperature: 0, max_tokens: 120, messages: [{ role: 'user', content: question }] }),
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  return (await response.json()).choices[0].message.content;
}
let right = 0, next = 0;
async function client() {
  while (next < rows.length) {
    const [question, required] = rows[next++];
    const answer = (await ask(question)).toLowerCase();
    if (required.split('|').every((text) => answer.includes(text))) right++;
    else console.log(`  ${question} [${required}] -> ${answer}`);
  }
}
let failed = false;
try {
  await Promise.all(Array.from({ length: 8 }, client));
  console.log(`toy-1: ${right} of ${rows.length} held-out questions right`);
  failed = rows.length < 200 || right < rows.length * 0.85;
} catch (e) {
  console.log(e.message);
  failed = true;
}
server.removeAllListeners('exit');
server.kill('SIGKILL');
process.exit(failed ? 1 : 0);
