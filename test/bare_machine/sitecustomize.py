"""In PYTHONPATH this folder makes an environment look like that of a bare CUDA machine: what is
installed beyond torch's usual company is not found, by any process started from there."""

import importlib.machinery
import sys

# What an image for work with torch brings, as far as this package or torch would import it.
THERE = {
    *("torch", "functorch", "torchgen", "triton", "nvidia", "numpy", "sympy", "mpmath", "networkx"),
    *("jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions", "setuptools", "packaging"),
    *("pkg_resources", "_distutils_hack", "numba", "llvmlite", "cv2", "yaml", "_yaml", "tqdm"),
    *("safetensors", "onnx", "ml_dtypes", "google", "PIL", "psutil", "matplotlib"),
    *("tabulate",),
    *("pytest", "_pytest", "py", "pluggy", "iniconfig", "pygments"),
}


class BareMachine(importlib.machinery.PathFinder):
    """Finds only the installed packages in THERE."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        spec = super().find_spec(fullname, path, target)
        if spec is None or path is not None or fullname in THERE:
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or ())]
        installed = any("-packages" in place for place in places)
        return None if installed else spec


sys.meta_path[:] = [
    BareMachine if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path
]
