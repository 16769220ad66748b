import { readFile } from 'node:fs/promises';
import { Controller, Get, Header } from '@nestjs/common';
import ms from 'ms';
import { settings } from '../settings.js';

// Compiled, this file is in dist/page; the page stays in the sources.
const PAGE = new URL('../../page/page.html', import.meta.url);

@Controller()
export class PageController {
  @Get()
  @Header('Content-Type', 'text/html; charset=utf-8')
  async show(): Promise<string> {
    const page = await readFile(PAGE, 'utf8');
    return page.replace('{{day}}', ms(settings.day, { long: true }));
  }
}
