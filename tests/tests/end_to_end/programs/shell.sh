# bash without job control: pipelines, background, substitution, descriptors, FIFOs, here-documents.
set -euo pipefail
test "$(seq 10 | grep -v 5 | sed 's/^/x/' | wc -l)" = 9
sleep 0.1 & wait
(exit 3) & if wait $!; then exit 1; else test $? = 3; fi
test "$(cat <<HERE
six by seven is $((6 * 7))
HERE
)" = "six by seven is 42"
test "$(cat <<< string)" = string
test "$(cat <(echo one) <(echo two))" = $'one\ntwo'
echo written > >(cat > taken); wait $! || true
diff <(printf 'a\nb\n') <(printf 'a\nb\n')
exec 5> five; echo five >&5; exec 5>&-
test "$(cat five)" = five
test "$(echo through | cat /dev/stdin)" = through
echo to-stdout > /dev/stdout | cat > /dev/null
echo to-stderr 2> /dev/null > /dev/stderr
test "$(cat /dev/fd/6 6<<< six)" = six
test -e /dev/fd/1
mkfifo fifo
cat fifo > from-fifo &
echo by-fifo > fifo
wait
test "$(cat from-fifo)" = by-fifo
trap 'trapped=yes' USR1
kill -USR1 $$
test "$trapped" = yes
read -r -t 0.1 line < /dev/zero || true
ulimit -n 64
test "$(ulimit -n)" = 64
array=(a b c)
test "${#array[@]}" = 3
printf '%(%s)T\n' -1 > /dev/null
time true
echo ok
