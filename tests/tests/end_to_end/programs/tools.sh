# The everyday tools.
set -eu
file=$(mktemp)
directory=$(mktemp -d)
echo content > "$file"
install -D -m 755 "$file" "$directory/a/b/installed"
test "$(stat -c %a "$directory/a/b/installed")" = 755
install -d "$directory/c"
timeout 20 true
if timeout 0.1 sleep 60; then exit 1; else test $? = 124; fi
if timeout -s KILL 0.1 sleep 60; then exit 1; else test $? = 137; fi
test "$(nice -n 5 nice)" = "$(($(nice) + 5))"
ls -l /usr /bin/ > listing
ls -la . > listing
test -s listing
umask 077
touch private
test "$(stat -c %a private)" = 600
umask 022
mkdir -p one/two three
echo x > one/two/x
mv one/two/x three/y
mv three one/
ln one/three/y hard
test "$(stat -c %h hard)" = 2
ln -s one/three/y soft
test "$(readlink -f soft)" = "$PWD/one/three/y"
cp -a one copy
cp --sparse=always "$file" sparse
tar -czf archive.tar.gz one
mkdir out
tar -xzf archive.tar.gz -C out
test "$(cat out/one/three/y)" = x
find . -name y -type f -exec cat {} + > found
test "$(find . -type d | wc -l)" -ge 6
seq 200000 | sort -R > shuffled
sort -n -S 1M --parallel=2 -T . shuffled | head -3 > sorted
test "$(tr '\n' ' ' < sorted)" = "1 2 3 "
echo 'a b c' > text
sed -i 's/b/B/' text
test "$(cat text)" = "a B c"
test "$(awk '{print $2}' text)" = B
printf 'b\na\n' | sort | tee teed | paste -s -d, - > pasted
test "$(cat pasted)" = a,b
dd if=/dev/zero of=zeros bs=1M count=4 2> /dev/null
truncate -s 10M sparse
split -b 1M zeros part.
sha256sum zeros > sums
sha256sum -c --quiet sums
xargs -n1 -P2 echo < text > echoed
test "$(wc -l < echoed)" = 3
diff text text
date > /dev/null
df . > /dev/null
du -s . > /dev/null
id > /dev/null
uname -a > /dev/null
env > /dev/null
head -c 1000 /dev/urandom | base64 | gzip | gunzip | base64 -d | wc -c | grep -qx 1000
echo ok
