# The process tools see this sandbox.
set -eu
sleep 60 &
ps > /dev/null
ps aux | grep -q '[s]leep 60'
ps -o pid,ppid,comm > /dev/null
pgrep sleep > /dev/null
pkill sleep
if wait $!; then exit 1; fi
test "$(ls /dev/fd/ | head -1)" = 0
ls -l /proc/self/ > /dev/null
free > /dev/null
uptime > /dev/null
echo ok
