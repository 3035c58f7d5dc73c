# A virtual environment, with and without pip.
set -eu
python3 -m venv --without-pip bare
bare/bin/python -c 'import sys; assert sys.prefix.endswith("/bare"), sys.prefix'
. bare/bin/activate
test "$(command -v python)" = "$PWD/bare/bin/python"
python -c 'print("in it")'
deactivate
python3 -m venv --copies --without-pip copies
copies/bin/python -c 'import sys; assert sys.prefix.endswith("/copies")'
echo ok
