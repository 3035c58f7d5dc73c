# pip installs a wheel that lies in the workspace.
set -eu
python3 - <<'PYTHON'
import base64, hashlib, zipfile
name = "tiny-1.0"
info = "tiny-1.0.dist-info"
files = {
    "tiny/__init__.py": "def answer():\n    return 42\n",
    f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/entry_points.txt": "[console_scripts]\ntiny = tiny:answer\n",
}
record = ""
for path, text in files.items():
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    record += f"{path},sha256={digest},{len(text)}\n"
files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
with zipfile.ZipFile("tiny-1.0-py3-none-any.whl", "w") as wheel:
    for path, text in files.items():
        wheel.writestr(path, text)
PYTHON
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --no-index --quiet ./tiny-1.0-py3-none-any.whl
venv/bin/python -c 'import tiny; assert tiny.answer() == 42'
venv/bin/tiny || test $? = 42
python3 -m pip install --no-index --quiet --target target --find-links . tiny
PYTHONPATH=target python3 -c 'import tiny; assert tiny.answer() == 42'
echo ok
