// A Holdfast of a test's own: starts on free ports, stops, kills, and comes back where it was.

import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, openSync, closeSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export class Server {
  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'holdfast-clients-'));
    this.logPath = join(this.folder, 'log');
    this.port = this.tlsPort = 0;
    // One certificate that is its own authority.
    const [cert, key] = ['cert.pem', 'key.pem'].map((name) => join(this.folder, name));
    execFileSync('openssl', [
      'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=localhost',
      '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', key, '-out', cert,
    ], { stdio: 'ignore' });
    this.ca = readFileSync(cert);
    this.tlsFlags = ['--set', `tls.certificate_file=${cert}`, '--set', `tls.key_file=${key}`];
  }

  // Starts and waits until it is ready; after the first time on the same port.
  async start() {
    const log = openSync(this.logPath, 'a');
    const flags = ['--data', join(this.folder, 'data'), '--redis', `127.0.0.1:${this.port}`, '--http', '127.0.0.1:0'];
    flags.push('--set', `redis.tls_addr=127.0.0.1:${this.tlsPort}`, ...this.tlsFlags);
    this.process = spawn(process.env.HOLDFAST_BIN, ['serve', ...flags], { stdio: ['ignore', 'pipe', log] });
    closeSync(log);
    const lines = createInterface({ input: this.process.stdout });
    const [line] = await Promise.race([once(lines, 'line'), once(lines, 'close').then(() => [''])]);
    const found = /^ready redis=[^ ]*:(\d+) redis-tls=[^ ]*:(\d+) /.exec(line);
    if (!found) throw new Error(`not ready: ${line}\n${this.told()}`);
    [this.port, this.tlsPort] = found.slice(1).map(Number);
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
