import ts from 'typescript';
import { expect, it } from 'vitest';
import { read } from '../support/docs.js';

/** An app that is CommonJS, with the library's own package.json and without its code. */
const APP = {
  '/app/package.json': '{}',
  '/app/app.ts': `import 'nestjs-future-call';`,
  '/app/node_modules/nestjs-future-call/package.json': read('package.json'),
  '/app/node_modules/nestjs-future-call/dist/index.d.ts': 'export {};',
};

const readme = read('README.md');
const quoted = /^> (TS\d+: .*)$/m.exec(readme)![1]!;

it.each(['node16', 'node18'])('module: %s answers what the README quotes', (module) => {
  expect(readme).toContain(`\`${module}\``);
  const [answer, ...more] = compile({ module });
  expect(more).toEqual([]);
  expect(answer).toMatch(quoted);
});

it.each([{ module: 'nodenext' }, { module: 'node20' }, { module: 'commonjs' }])(
  'module: $module works, as the README says',
  (options) => {
    expect(readme).toContain(`\`module: ${options.module}\``);
    expect(compile(options)).toEqual([]);
  },
);

/** What the compiler says of the import, as it prints it. */
function compile(compilerOptions: Record<string, string>): string[] {
  const files = new Map(Object.entries(APP));
  const { options, errors } = ts.convertCompilerOptionsFromJson({ ...compilerOptions, types: [] }, '/app');
  const host: ts.CompilerHost = {
    fileExists: (file) => files.has(file),
    readFile: (file) => files.get(file),
    directoryExists: (folder) => [...files.keys()].some((file) => file.startsWith(`${folder}/`)),
    getSourceFile: (file, languageVersion) =>
      files.has(file) ? ts.createSourceFile(file, files.get(file)!, languageVersion) : undefined,
    getDefaultLibFileName: () => '/lib.d.ts',
    getCurrentDirectory: () => '/app',
    getCanonicalFileName: (file) => file,
    useCaseSensitiveFileNames: () => true,
    getNewLine: () => '\n',
    writeFile: () => {},
  };
  const program = ts.createProgram({
    rootNames: ['/app/app.ts'],
    options: { ...options, noLib: true },
    host,
  });
  return [...errors, ...program.getSemanticDiagnostics(program.getSourceFile('/app/app.ts'))].map(
    ({ code, messageText }) => `TS${code}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`,
  );
}
