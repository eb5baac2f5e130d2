// A Holdfast of a test's own: starts on free ports, stops, kills, and comes back where it was.

import { spawn } from 'node:child_process';
import { mkdtempSync, openSync, closeSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export class Server {
  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'holdfast-clients-'));
    this.logPath = join(this.folder, 'log');
    this.port = 0;
  }

  // Starts and waits until it is ready; after the first time on the same port.
  async start() {
    const log = openSync(this.logPath, 'a');
    const flags = ['--data', join(this.folder, 'data'), '--redis', `127.0.0.1:${this.port}`, '--http', '127.0.0.1:0'];
    this.process = spawn(process.env.HOLDFAST_BIN, ['serve', ...flags], { stdio: ['ignore', 'pipe', log] });
    closeSync(log);
    const lines = createInterface({ input: this.process.stdout });
    const [line] = await Promise.race([once(lines, 'line'), once(lines, 'close').then(() => [''])]);
    const found = /^ready redis=[^ ]*:(\d+) /.exec(line);
    if (!found) throw new Error(`not ready: ${line}\n${this.told()}`);
    this.port = Number(found[1]);
  }

  // SIGTERM as an operator, SIGKILL as a crash.
  async end(signal = 'SIGTERM') {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = once(this.process, 'exit');
    this.process.kill(signal);
    await gone;
  }

  // What it logged.
  told() {
    return readFileSync(this.logPath, 'utf8');
  }

  async close() {
    await this.end();
    rmSync(this.folder, { recursive: true });
  }
}
