// What to say where no model is there.
import {problem, h} from './dom.js';
import {isSite} from './data.js';

export function needsLive(what) {
  return problem(`${what} needs the model`, isSite
    ? 'This page is a folder of files, made by index.to_site.' : 'This explorer was opened without its model and SAE.',
    h('p', null, 'In Python: ', h('code', null, 'index.attach(model, sae)'), ', then ', h('code', null, 'index.serve()'), '. In a shell: ',
      h('code', null, 'mlxterp serve INDEX')), h('a.button', { href: '#/list' }, 'All features'));
}
