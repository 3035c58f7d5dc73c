# git: a repository, commits, branches, a merge, a clone, garbage collection.
set -eu
git init --quiet -b main project
cd project
git config user.name tester
git config user.email tester@example.org
echo one > file
git add file
git commit --quiet -m first
git checkout --quiet -b other
echo two > second
git add second
git commit --quiet -m second
git checkout --quiet main
git merge --quiet --no-ff -m merged other
test "$(git log --oneline | wc -l)" = 3
git status --short
git stash list
git gc --quiet
cd ..
git clone --quiet project copy
cd copy
test "$(cat second)" = two
echo three > third
git add third
git -c user.name=x -c user.email=x@example.org commit --quiet -m third
git push --quiet origin HEAD:refs/heads/pushed
git -C ../project log --oneline pushed > log
test "$(wc -l < log)" = 4
git archive HEAD | tar -t > names
git worktree add --quiet ../tree
git fsck --strict
echo ok
