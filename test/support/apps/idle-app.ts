/** A Nest app with TypeORM and nothing else: what the tests' own tools are tested with. */
import { createRequire } from 'node:module';
import { Injectable, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { boot, onMessage, tell } from '../app-process.js';

@Injectable()
class Echo {
  constructor(private readonly dataSource: DataSource) {}

  async echo(text: unknown) {
    return this.dataSource.query<[{ text: string }]>('select $1::text as text', [text]);
  }
}

@Module({
  imports: [TypeOrmModule.forRoot({ type: 'postgres', url: process.env.DATABASE_URL })],
  providers: [Echo],
})
class IdleApp {}

const app = await boot(IdleApp);
onMessage('echo', async ({ text }) => {
  const [row] = await app.get(Echo).echo(text);
  tell('echoed', { text: row.text });
});
// What CommonJS modules there are in this process: TypeORM and pg are some hundred, as they are installed.
onMessage('files', () => tell('files', { files: Object.keys(createRequire(import.meta.url).cache) }));
