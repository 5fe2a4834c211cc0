"""Runs notebooks top to bottom and saves their outputs: all of nbs/, or those named on the command line."""
import os
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
SLIDER = 'application/vnd.jupyter.widget-view+json'
# without it JupyterLab asks every reader for a kernel
KERNEL = {'display_name': 'python3', 'language': 'python', 'name': 'python3'}


def run(path: Path) -> str:
    """An error message, or nothing if every cell ran."""
    notebook, started = nbformat.read(path, as_version=4), time.perf_counter()
    client = NotebookClient(
        notebook, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return f'{path.relative_to(ROOT)}:\n{error}'
    notebook.metadata = nbformat.from_dict({'kernelspec': KERNEL})
    for cell in notebook.cells:  # a slider without its kernel is a line of text
        if cell.cell_type == 'code':
            cell.outputs = [output for output in cell.outputs if SLIDER not in output.get('data', {})]
    nbformat.write(notebook, path)
    print(f'{path.relative_to(ROOT)}  {time.perf_counter() - started:.1f} s', flush=True)
    return ''


if __name__ == '__main__':
    os.environ['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    paths = [Path(name).resolve() for name in sys.argv[1:]] or sorted(ROOT.glob('nbs/**/*.ipynb'))
    paths = [path for path in paths if '.ipynb_checkpoints' not in path.parts]
    # a process for each: two kernels that send sliders to threads of one process wait for each other for ever
    with get_context('spawn').Pool(2, maxtasksperchild=1) as pool:
        errors = list(filter(None, pool.imap(run, paths, chunksize=1)))
    sys.exit('\n'.join(errors) or 0)
