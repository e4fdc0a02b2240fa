"""MONAI Label with our app. All that knows of MONAI Label is in this folder."""

import importlib.util
import sys
import types

if importlib.util.find_spec("pydicom_seg") is None:
    # MONAI Label imports it, and it does not run beside pydicom 3; nothing of it is ever called
    sys.modules.setdefault("pydicom_seg", types.ModuleType("pydicom_seg"))
