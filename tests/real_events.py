"""Replays public series with real events and prints what paged and why; to be started by real_events.sh, which tells more.

    python3 real_events.py DATA_FOLDER WORK_FOLDER PROGRAMS_FOLDER
"""

import csv, gzip, json, subprocess, sys
from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

data, work, programs = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
ZONES = {"Central": "America/Chicago", "Eastern": "America/New_York", "Pacific": "America/Los_Angeles",
         "Mountain": "America/Denver", "Arizona": "America/Phoenix"}
HURRICANES = [("Matthew", "2016-10-06", "2016-10-12", ["florida", "carolinas", "southeast"]),
              ("Irma", "2017-09-09", "2017-09-16", ["florida", "carolinas", "southeast"]),
              ("Florence", "2018-09-13", "2018-09-19", ["carolinas"])]
FROM, LEARNED, UNTIL = "2015-10-01", "2016-10-01", "2018-11-01"
WINDOW = "[replay]\nwindow_ms = 3600000\n\n[dimensions]\nregion = \"region\"\ndevice = \"device\"\nstack = \"stack\"\n\n"


def utc(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).replace(tzinfo=timezone.utc)


def replay(name, metric, regions, rows, calendar=None):
    """Writes rows of (time, region, stack, value), replays them, and gives pages and what was held back."""
    config = WINDOW + f"[metrics.{metric}]\nrole = \"traffic\"\nalarm_on = \"drop\"\n"
    config += "".join(f"\n[regions.{region}]\ntimezone = \"{zone}\"\n" for region, zone in sorted(regions.items()))
    (work / f"{name}.toml").write_text(config)
    with open(work / f"{name}.csv", "w") as out:
        out.write("timestamp,measurement,region,device,stack,value\n")
        out.writelines(f"{at:%Y-%m-%dT%H:%M:%SZ},{metric},{region},all,{stack},{value}\n" for at, region, stack, value in rows)
    files = [f"--config={work}/{name}.toml", f"--input={work}/{name}.csv", f"--alarms={work}/{name}.alarms"]
    if calendar:
        files.append(f"--calendar={calendar}")
    said = subprocess.run([programs / "vedette-aggregator", "replay", *files], check=True, capture_output=True, text=True)
    print(f"{name}: {said.stdout.strip().splitlines()[-1]}")
    incidents = {}
    for line in open(work / f"{name}.alarms"):
        alarm = json.loads(line)
        if alarm["kind"] != "malfunction":
            continue
        known = incidents.setdefault(alarm["id"], {"first": alarm, "opened": None, "held": None, "until": None})
        if alarm["state"] == "open" and known["opened"] is None:
            known["opened"] = alarm
        if alarm["state"] == "suppressed":
            known["held"] = alarm
        known["until"] = utc(alarm["at"])
    return list(incidents.values())


def forecast_only(rows):
    """Alarms of each series alone, as (time, region, stack)."""
    series = defaultdict(list)
    for at, region, stack, value in rows:
        series[region, stack].append((at, value))
    alarms = []
    for (region, stack), values in sorted(series.items()):
        text = "timestamp,value\n" + "".join(f"{at:%Y-%m-%d %H:%M:%S},{value}\n" for at, value in values)
        out = subprocess.run([programs / "vedette-agent", "score"], input=text, check=True, capture_output=True, text=True).stdout
        last = None
        for (at, value), row in zip(values, csv.DictReader(out.splitlines())):
            if float(row["anomaly_score"]) >= 0.5 and value < float(row["expected"]):
                if last is None or at - last > timedelta(hours=6):
                    alarms.append((at, region, stack))
                last = at
    return alarms


def place(alarm):
    return "/".join("+".join(alarm["scope"][part]) or "*" for part in ("region", "stack"))


def demand():
    places = {r["ba"]: (r["region"].lower().replace(" ", "-"), ZONES[r["tz"]])
              for r in csv.DictReader(open(data / "eia/ba_region_map.csv")) if r["tz"] in ZONES}
    header, *table = csv.reader(gzip.open(next((data / "eia").glob("*.csv.gz")), "rt"))
    rows = []
    for row in table:
        if FROM <= row[0] < UNTIL:
            at = utc(row[0])
            rows += [(at, places[ba][0], ba.lower(), value) for ba, value in zip(header[1:], row[1:]) if value]
    rows = [(at, region, stack, float(value)) for at, region, stack, value in rows]
    regions = {region: zone for region, zone in places.values() if any(True for _ in region)}
    incidents = [i for i in replay("demand", "demand", regions, rows) if utc(i["first"]["at"]) >= utc(LEARNED)]
    alone = [alarm for alarm in forecast_only(rows) if alarm[0] >= utc(LEARNED)]
    pages = [i for i in incidents if i["opened"]]
    held = [i for i in incidents if not i["opened"]]
    print(f"\n| {LEARNED} to {UNTIL} | forecast only | paged | held back |\n|---|---|---|---|")
    for name, begin, end, struck in HURRICANES:
        inside = lambda at, where: utc(begin) <= at < utc(end) and where in struck
        of = lambda them: [i for i in them if any(inside(utc(i["first"]["started_at"]), r) for r in i["first"]["scope"]["region"])]
        print(f"| {name}, {'+'.join(struck)} | {sum(inside(at, region) for at, region, _ in alone)} | {len(of(pages))} | {len(of(held))} |")
    print(f"| everything | {len(alone)} | {len(pages)} | {len(held)} |")
    for name, begin, end, struck in HURRICANES:
        print(f"\n{name}:")
        for i in sorted(incidents, key=lambda i: i["first"]["started_at"]):
            if utc(begin) <= utc(i["first"]["started_at"]) < utc(end) and set(struck) & set(i["first"]["scope"]["region"]):
                told = i["opened"] or i["held"] or i["first"]
                e = told["evidence"]
                print(f"  {'PAGED' if i['opened'] else 'held '} {place(told)} {told['started_at'][5:13]} {e['direction']} shared "
                      f"{e['common_mode']:+.2f} left {e['residual']:+.2f}: {e['reason']}")
    print("\nwhy it paged:", Counter(i["opened"]["evidence"]["reason"].split(" against")[0] for i in pages).most_common(6))
    print("what was held back:", Counter((i["held"] or i["first"])["verdict"] for i in held).most_common())
    whole = [i for i in pages if not i["opened"]["scope"]["stack"]]
    print(f"pages for a whole region: {len(whole)}; for single authorities: {len(pages) - len(whole)}")


def counts():
    holidays = [(r["date"], r["name"]) for r in csv.DictReader(open(data / "events/calendar_holidays.csv")) if r["region"] == "US"]
    calendar = work / "holidays.ics"
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Vedette//real events//EN"]
    for number, (date, name) in enumerate(holidays):
        lines += ["BEGIN:VEVENT", f"UID:{number}@holidays", f"DTSTART;VALUE=DATE:{date.replace('-', '')}", f"SUMMARY:{name}",
                  "CATEGORIES:holiday", "END:VEVENT"]
    calendar.write_text("\r\n".join([*lines, "END:VCALENDAR", ""]))
    days = {date for date, _ in holidays}
    print("\n| counts, drops | forecast only | paged without calendar | paged with it | of them on holidays |\n|---|---|---|---|---|")
    table = []
    for name, column, region, zone in (("i94_traffic_hourly", "traffic_volume", "minneapolis", "America/Chicago"),
                                       ("dc_bikeshare_uci_hourly", "users", "washington", "America/New_York")):
        known = {}
        for r in csv.DictReader(gzip.open(data / f"events/{name}.csv.gz", "rt")):
            local = datetime.strptime(r["date_time"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=ZoneInfo(zone))
            known.setdefault(local.astimezone(timezone.utc), (r["date_time"][:10], float(r[column])))
        rows = [(at, region, "road", value) for at, (_, value) in sorted(known.items())]
        begin = rows[0][0] + timedelta(days=90)
        alone = [a for a in forecast_only(rows) if a[0] >= begin]
        opened = []
        for use in (None, calendar):
            incidents = replay(name + ("-calendar" if use else ""), "traffic", {region: zone}, rows, use)
            opened.append([utc(i["opened"]["at"]) for i in incidents if i["opened"] and utc(i["opened"]["at"]) >= begin])
        on = [sum(at.astimezone(ZoneInfo(zone)).date().isoformat() in days for at in them) for them in opened]
        table.append(f"| {name} | {len(alone)} | {len(opened[0])} ({on[0]} on holidays) | {len(opened[1])} | {on[1]} |")
    print("\n".join(table))


demand()
counts()
