# Perl: files, fork, pipes, sockets in pairs, sorting.
use strict; use warnings;
use File::Temp qw(tempfile tempdir);
use IPC::Open3;
my ($file, $name) = tempfile();
print $file "line\n" x 3;
close $file;
open(my $in, '<', $name) or die; my @lines = <$in>; die unless @lines == 3;
die unless `echo x` eq "x\n";
my $pid = fork // die; if (!$pid) { exit 7 } waitpid($pid, 0); die unless $? >> 8 == 7;
open(my $pipe, '-|', 'sh', '-c', 'echo y') or die; die unless <$pipe> eq "y\n";
my $child = open3(my $to, my $from, undef, 'cat'); print $to "z\n"; close $to; die unless <$from> eq "z\n"; waitpid($child, 0);
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; sleep 60; }; die unless $@ eq "alarm\n";
print "ok\n";
