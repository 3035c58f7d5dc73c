"""Reconciles a ledger of bookings with a list of accounts.

Usage: ledger.py ACCOUNTS.json BOOKINGS.csv < RATES

Reads accounts from a JSON file, bookings from a CSV file and exchange rates
from standard input, checks them, and prints a report. It uses a good part of
the standard library, as programs do: a sandbox that breaks one of these
modules breaks this program.
"""

import csv
import dataclasses
import datetime
import decimal
import enum
import functools
import hashlib
import heapq
import io
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import zlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Decimal = decimal.Decimal
CENT = Decimal("0.01")


class Problem(Exception):
    """Something in the input that makes no sense."""


class Kind(enum.Enum):
    ASSET = "asset"
    INCOME = "income"
    EXPENSE = "expense"

    @property
    def sign(self):
        return -1 if self is Kind.INCOME else 1


@dataclasses.dataclass(frozen=True, order=True)
class Account:
    number: int
    name: str
    kind: Kind = dataclasses.field(compare=False)
    currency: str = "EUR"

    @classmethod
    def parse(cls, raw):
        try:
            return cls(int(raw["number"]), raw["name"], Kind(raw["kind"]), raw.get("currency", "EUR"))
        except (KeyError, ValueError) as error:
            raise Problem(f"account {raw!r}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Booking:
    day: datetime.date
    debit: int
    credit: int
    amount: Decimal
    text: str

    PATTERN = re.compile(r"^(?P<whole>-?\d{1,9})(?:[.,](?P<part>\d{1,2}))?$")

    @classmethod
    def parse(cls, line, row):
        match = cls.PATTERN.match(row["amount"].strip())
        if match is None:
            raise Problem(f"line {line}: {row['amount']!r} is no amount")
        part = (match["part"] or "0").ljust(2, "0")
        amount = Decimal(f"{match['whole']}.{part}")
        day = datetime.date.fromisoformat(row["day"])
        return cls(day, int(row["debit"]), int(row["credit"]), amount, row["text"].strip())


def read_accounts(path):
    with open(path, encoding="utf-8") as file:
        accounts = [Account.parse(raw) for raw in json.load(file)["accounts"]]
    numbers = Counter(account.number for account in accounts)
    doubles = sorted(number for number, count in numbers.items() if count > 1)
    if doubles:
        raise Problem(f"account numbers given twice: {doubles}")
    return {account.number: account for account in accounts}


def read_bookings(path, accounts):
    bookings, problems = [], []
    with open(path, newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file, delimiter=";"), start=2):
            try:
                booking = Booking.parse(line, row)
                for number in (booking.debit, booking.credit):
                    if number not in accounts:
                        raise Problem(f"line {line}: no account {number}")
                bookings.append(booking)
            except Problem as problem:
                problems.append(str(problem))
            except ValueError:
                problems.append(f"line {line}: a date or number that is none")
    return bookings, problems


def read_rates(stream):
    rates = {"EUR": Decimal(1)}
    for line in stream:
        name, _, value = line.partition("=")
        if value:
            rates[name.strip()] = Decimal(value.strip())
    return rates


def balances(bookings, accounts, rates):
    totals = defaultdict(Decimal)
    for booking in bookings:
        for number, sign in ((booking.debit, 1), (booking.credit, -1)):
            account = accounts[number]
            totals[number] += sign * account.kind.sign * booking.amount * rates[account.currency]
    return {number: total.quantize(CENT) for number, total in totals.items()}


@functools.lru_cache(maxsize=None)
def partitions(n, largest):
    """The number of ways to write n as a sum: something to compute."""
    if n == 0:
        return 1
    return sum(partitions(n - part, part) for part in range(1, min(n, largest) + 1))


def months(bookings):
    by_month = lambda booking: booking.day.strftime("%Y-%m")
    for month, group in itertools.groupby(sorted(bookings, key=by_month), key=by_month):
        yield month, [booking.amount for booking in group]


def in_threads(words):
    lock, seen = threading.Lock(), []

    def work(word):
        with lock:
            seen.append(word)
        return hashlib.sha256(word.encode()).hexdigest()[:8]

    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = list(pool.map(work, words))
    assert sorted(seen) == sorted(words)
    return digests


def in_a_child(text):
    """Through a pipe, an interpreter of its own, and a pipe back."""
    program = "import sys; sys.stdout.write(sys.stdin.read()[::-1])"
    child = subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, text=True)
    return child.stdout


def through_a_file(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.z")
        path.write_bytes(zlib.compress(json.dumps(rows).encode()))
        os.rename(path, path.with_suffix(".done"))
        return json.loads(zlib.decompress(path.with_suffix(".done").read_bytes()))


def report(accounts, bookings, problems, rates, out):
    print(f"{len(accounts)} accounts, {len(bookings)} bookings, {len(problems)} problems", file=out)
    for number, total in sorted(balances(bookings, accounts, rates).items()):
        account = accounts[number]
        print(f"{number:>6} {account.name:<12} {account.kind.value:<8} {total:>12}", file=out)
    for month, amounts in months(bookings):
        median = statistics.median(amounts)
        print(f"{month}: {len(amounts)} of median {median}", file=out)
    largest = heapq.nlargest(2, bookings, key=lambda booking: booking.amount)
    print("largest:", ", ".join(booking.text for booking in largest), file=out)
    for problem in problems:
        print(textwrap.indent(problem, "! "), file=out)


def main(arguments):
    accounts_path, bookings_path = arguments
    accounts = read_accounts(accounts_path)
    bookings, problems = read_bookings(bookings_path, accounts)
    out = io.StringIO()
    report(accounts, bookings, problems, read_rates(sys.stdin), out)
    sys.stdout.write(out.getvalue())
    texts = [booking.text for booking in bookings]
    print("digests:", *in_threads(texts))
    print("reversed:", in_a_child(texts[0]))
    assert through_a_file(texts) == texts
    print("partitions of 60:", partitions(60, 60), "gcd:", math.gcd(1071, 462))
    Path("report.txt").write_text(out.getvalue())
    print("written:", Path("report.txt").stat().st_size, "bytes")
    return 3 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
