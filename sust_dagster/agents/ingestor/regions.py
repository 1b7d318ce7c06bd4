"""Region ids from what bills write into region, zone and usage-type columns.

Belongs here: the aliases and the rules. A region that no rule recognises is kept as written, in lower case, and
flagged; a missing one is ``unknown``. Nothing is ever replaced by an average.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

UNKNOWN = "unknown"
GLOBAL = "global"

#: AWS usage-type prefixes (billing codes). No prefix means us-east-1, but only for services that have regions.
AWS_PREFIXES = {
    "USE1": "us-east-1",
    "USE2": "us-east-2",
    "USW1": "us-west-1",
    "USW2": "us-west-2",
    "CAN1": "ca-central-1",
    "CAN2": "ca-west-1",
    "MXC1": "mx-central-1",
    "EU": "eu-west-1",
    "EUW1": "eu-west-1",
    "EUW2": "eu-west-2",
    "EUW3": "eu-west-3",
    "EUC1": "eu-central-1",
    "EUC2": "eu-central-2",
    "EUN1": "eu-north-1",
    "EUS1": "eu-south-1",
    "EUS2": "eu-south-2",
    "APN1": "ap-northeast-1",
    "APN2": "ap-northeast-2",
    "APN3": "ap-northeast-3",
    "APS1": "ap-southeast-1",
    "APS2": "ap-southeast-2",
    "APS3": "ap-south-1",
    "APS4": "ap-southeast-3",
    "APS5": "ap-south-2",
    "APS6": "ap-southeast-4",
    "APS7": "ap-southeast-5",
    "APE1": "ap-east-1",
    "SAE1": "sa-east-1",
    "MES1": "me-south-1",
    "MEC1": "me-central-1",
    "ILC1": "il-central-1",
    "AFS1": "af-south-1",
    "UGW1": "us-gov-west-1",
    "UGE1": "us-gov-east-1",
    "CNN1": "cn-north-1",
    "CNW1": "cn-northwest-1",
}
#: Names in AWS location columns.
AWS_LOCATIONS = {
    "us east (n. virginia)": "us-east-1",
    "us east (ohio)": "us-east-2",
    "us west (n. california)": "us-west-1",
    "us west (oregon)": "us-west-2",
    "canada (central)": "ca-central-1",
    "canada west (calgary)": "ca-west-1",
    "eu (ireland)": "eu-west-1",
    "eu (london)": "eu-west-2",
    "eu (paris)": "eu-west-3",
    "eu (frankfurt)": "eu-central-1",
    "eu (stockholm)": "eu-north-1",
    "eu (milan)": "eu-south-1",
    "europe (ireland)": "eu-west-1",
    "europe (london)": "eu-west-2",
    "europe (paris)": "eu-west-3",
    "europe (frankfurt)": "eu-central-1",
    "europe (zurich)": "eu-central-2",
    "europe (stockholm)": "eu-north-1",
    "europe (milan)": "eu-south-1",
    "europe (spain)": "eu-south-2",
    "asia pacific (tokyo)": "ap-northeast-1",
    "asia pacific (seoul)": "ap-northeast-2",
    "asia pacific (osaka)": "ap-northeast-3",
    "asia pacific (singapore)": "ap-southeast-1",
    "asia pacific (sydney)": "ap-southeast-2",
    "asia pacific (jakarta)": "ap-southeast-3",
    "asia pacific (melbourne)": "ap-southeast-4",
    "asia pacific (mumbai)": "ap-south-1",
    "asia pacific (hyderabad)": "ap-south-2",
    "asia pacific (hong kong)": "ap-east-1",
    "south america (sao paulo)": "sa-east-1",
    "middle east (bahrain)": "me-south-1",
    "middle east (uae)": "me-central-1",
    "israel (tel aviv)": "il-central-1",
    "africa (cape town)": "af-south-1",
    "any": GLOBAL,
}
_AWS_REGION = re.compile(r"^((?:us-gov|us-iso[a-z]?|cn|us|ca|mx|eu|ap|sa|me|af|il)-[a-z]+-\d)(?![\d])(.*)$")
_AWS_PREFIX = re.compile(r"^([A-Z]{2,3}\d?|[A-Z]{3}\d)[-_]")
_AWS_FULL_PREFIX = re.compile(r"^([a-z]{2}(?:-gov)?-[a-z]+-\d)-")
#: Usage types that exist in regions only, so a missing prefix means us-east-1.
_AWS_REGIONAL = re.compile(
    r"^(BoxUsage|SpotUsage|DedicatedUsage|HostUsage|HostBoxUsage|InstanceUsage|Multi-AZUsage|NodeUsage|ESInstance|EBS:"
    r"|DataTransfer-|NatGateway|LoadBalancerUsage|Fargate|Lambda-GB)"
)

_GCP_REGION = re.compile(r"^([a-z]+-[a-z]+\d+)(-[a-z])?$")
_GCP_MULTI = {"us", "eu", "europe", "asia", "global", "nam4", "nam6", "nam9", "eur3", "eur4", "eur5", "asia1"}

_OCI_REGION = re.compile(r"(?<![a-z])([a-z]{2}-(?!ad-)[a-z]+-\d)")
_OCI_KEYS = {
    "iad": "us-ashburn-1",
    "phx": "us-phoenix-1",
    "sj": "us-sanjose-1",
    "sjc": "us-sanjose-1",
    "fra": "eu-frankfurt-1",
    "lhr": "uk-london-1",
    "yyz": "ca-toronto-1",
    "nrt": "ap-tokyo-1",
    "icn": "ap-seoul-1",
    "bom": "ap-mumbai-1",
    "syd": "ap-sydney-1",
    "gru": "sa-saopaulo-1",
    "zrh": "eu-zurich-1",
    "ams": "eu-amsterdam-1",
}

#: Azure regions: id, spellings of the country or continent, direction, number. The variants bills write are the
#: country and the direction in either order, long or short.
_AZURE_PLACES = """
us east|us east 2|us east 3|us west|us west 2|us west 3|us central|us northcentral|us southcentral|us westcentral
us southcentral 2|us southeast|us central euap|us east 2euap
usgov arizona|usgov virginia|usgov texas|usgov iowa|usgov wyoming|usdod central|usdod east|ussec east|ussec west
ussec westcentral|usnat east|usnat west
canada central|canada east|mexico central|brazil south|brazil southeast|chile central
europe north|europe west|uk south|uk west|uk north|uk south 2|france central|france south|germany central
germany north|germany northeast|germany westcentral|switzerland north|switzerland west|norway east|norway west
sweden central|sweden south|denmark east|finland central|poland central|italy north|spain central|austria east
belgium central|greece central|israel central|qatar central|uae central|uae north|saudiarabia east
southafrica north|southafrica west
asia east|asia southeast|japan east|japan west|korea central|korea south|taiwan north|taiwan northwest
singapore central|indonesia central|malaysia south|malaysia west|newzealand north
australia east|australia southeast|australia central|australia central 2
india central|india south|india west|jioindia central|jioindia west|india southcentral
china east|china east 2|china east 3|china north|china north 2|china north 3
"""
#: Regions whose id has the direction first.
_AZURE_DIRECTION_FIRST = {"us", "europe", "asia", "india"}
_AZURE_EXCEPTIONS = {"jioindia", "india southcentral"}
_AZURE_COUNTRIES = {
    "us": ("us", "unitedstates"),
    "canada": ("ca", "canada", "canda", "cananda"),
    "mexico": ("mx", "mexico"),
    "brazil": ("br", "brazil", "b"),
    "chile": ("cl", "chile"),
    "europe": ("eu", "europe", "e"),
    "uk": ("uk", "gb", "unitedkingdom"),
    "france": ("fr", "france"),
    "germany": ("de", "germany"),
    "switzerland": ("ch", "switzerland"),
    "norway": ("no", "norway"),
    "sweden": ("se", "sweden"),
    "denmark": ("dk", "denmark"),
    "finland": ("fi", "finland"),
    "poland": ("pl", "poland"),
    "italy": ("it", "italy"),
    "spain": ("es", "spain"),
    "austria": ("at", "austria"),
    "belgium": ("be", "belgium"),
    "greece": ("gr", "greece"),
    "israel": ("il", "israel"),
    "qatar": ("qa", "qatar"),
    "uae": ("ae", "uae"),
    "saudiarabia": ("sa", "saudiarabia"),
    "southafrica": ("za", "southafrica"),
    "asia": ("ap", "asia", "as"),
    "japan": ("jp", "ja", "japan"),
    "korea": ("kr", "korea"),
    "taiwan": ("tw", "taiwan"),
    "singapore": ("sg", "singapore", "sing"),
    "indonesia": ("id", "indonesia"),
    "malaysia": ("my", "malaysia"),
    "newzealand": ("nz", "newzealand"),
    "australia": ("au", "australia"),
    "india": ("in", "india"),
    "jioindia": ("jioin", "jioindia", "jio", "jin"),
    "china": ("cn", "china"),
    "usgov": ("usgov", "ussgov"),
    "usdod": ("usdod",),
    "ussec": ("ussec", "uss"),
    "usnat": ("usnat",),
}
_AZURE_DIRECTIONS = {
    "east": ("east", "e", "ea"),
    "west": ("west", "w", "we"),
    "north": ("north", "n", "no"),
    "south": ("south", "s", "so"),
    "central": ("central", "c", "ce"),
    "southeast": ("southeast", "se"),
    "northeast": ("northeast", "ne"),
    "northwest": ("northwest", "nw"),
    "northcentral": ("northcentral", "nc"),
    "southcentral": ("southcentral", "sc"),
    "westcentral": ("westcentral", "wc"),
    "arizona": ("arizona", "az", "southwest", "sw"),
    "virginia": ("virginia", "east", "v", "va"),
    "texas": ("texas", "tx", "sc", "southcentral"),
    "iowa": ("iowa", "central", "ia"),
    "wyoming": ("wyoming", "wc"),
}
#: Cities and codes in older bills, by region.
_AZURE_CITIES = {
    "westeurope": "amsterdam am am2 weu we europe",
    "northeurope": "dublin db ne neu",
    "eastus": "bl eu eus virginia",
    "eastus2": "bn eu2 us2 eus2 eastsu2",
    "eastus3": "eus3",
    "westus": "by california siliconvalley wu wus",
    "westus2": "seattle mwh wu2 wus2",
    "westus3": "phoenix usw3 wus3",
    "centralus": "dm iowa desmoines cu cus",
    "northcentralus": "usnorth ch chicago illinois ncus",
    "southcentralus": "ussouth sn sanantonio texas scus",
    "westcentralus": "cy wcu wcus cheyenne",
    "canadacentral": "toronto yt cc",
    "canadaeast": "cae montreal quebeccity yq",
    "brazilsouth": "saopaulo cq sbr bso",
    "uksouth": "london ln gbs",
    "ukwest": "cw cardiff",
    "uknorth": "mm",
    "uksouth2": "lo",
    "francecentral": "paris par",
    "francesouth": "marseille mrs",
    "germanycentral": "fr",
    "germanynortheast": "lg",
    "germanywestcentral": "frankfurt dwc germanywcentral",
    "finlandcentral": "flc",
    "eastasia": "hongkong hk hkg ea eas ase",
    "southeastasia": "singapore sg sea seas southsoutheastasia",
    "japaneast": "tokyo ty",
    "japanwest": "osaka os",
    "koreacentral": "seoul se",
    "koreasouth": "busan ps",
    "australiaeast": "sydney syd sy eau",
    "australiasoutheast": "melbourne ml seau",
    "australiacentral": "canberra cbr",
    "australiacentral2": "canberra2 cbr2",
    "centralindia": "pune pn",
    "southindia": "chennai ma sin",
    "westindia": "mumbai mumbai2 bm",
    "jioindiacentral": "injiocentral incentraljio jinc jioinc",
    "jioindiawest": "injiowest inwestjio jinw jioinw",
    "uaenorth": "dubai dxb",
    "uaecentral": "abudhabi auh",
    "southafricanorth": "sanorth johannesburg jnb san",
    "southafricawest": "sawest capetown cpt",
    "chinaeast": "shanghai sh",
    "chinaeast2": "sha",
    "chinanorth": "beijing bj",
    "chinanorth2": "bjs",
    "usgovarizona": "phx usa",
    "usgovvirginia": "usgoveast usv bostongov",
    "usdodeast": "bd",
    "usdodcentral": "dd",
    "norwayeast": "noe",
    "qatarcentral": "qatarentral",
    "global": "global unassigned none intercontinental zone1 zone2 zone3",
}


def region_ids(
    provider: Sequence[str | None],
    region: Sequence[str | None],
    zone: Sequence[str | None],
    meter: Sequence[str | None],
) -> list[tuple[str, bool, bool]]:
    """Region id, whether it is unknown, whether it was inferred; one entry per distinct combination."""
    return [region_id(*c) for c in zip(provider, region, zone, meter, strict=True)]


@cache
def region_id(provider: str | None, region: str | None, zone: str | None, meter: str | None) -> tuple[str, bool, bool]:
    """``(region id, unknown, inferred)`` of one combination of billed texts.

    ``unknown`` is true where the bill names no region or one no rule recognises; ``inferred`` where it comes
    from the zone or the usage type.
    """
    text = (region or "").strip().lower()
    rule = _RULES.get(provider or "", _other)
    if text and text not in ("unknown", "-", "n/a", "na"):
        found = rule(text)
        return (found, False, False) if found else (re.sub(r"\s+", "", text), True, False)
    place = (zone or "").strip().lower()
    if place:
        found = rule(place)
        if found:
            return found, False, True
    if provider == "aws" and meter:
        found = aws_region_of_meter(meter)
        if found:
            return found, False, True
    return UNKNOWN, True, False


def aws_region_of_meter(meter: str) -> str | None:
    """Region of an AWS usage type such as ``USW2-BoxUsage:m5.large``; ``None`` where it does not say."""
    full = _AWS_FULL_PREFIX.match(meter)
    if full:
        return full.group(1)
    prefix = _AWS_PREFIX.match(meter)
    if prefix and prefix.group(1) in AWS_PREFIXES:
        return AWS_PREFIXES[prefix.group(1)]
    return "us-east-1" if _AWS_REGIONAL.match(meter) else None


def _aws(text: str) -> str | None:
    if text == GLOBAL:
        return GLOBAL
    match = _AWS_REGION.match(text)
    if match:  # the rest is a zone letter, a local zone or nothing
        return match.group(1) if re.fullmatch(r"|[a-z]|-.+", match.group(2)) else None
    return AWS_LOCATIONS.get(text)


def _gcp(text: str) -> str | None:
    if text in _GCP_MULTI:
        return text
    match = _GCP_REGION.match(text)
    return match.group(1) if match else None


def _oci(text: str) -> str | None:
    match = _OCI_REGION.search(text)
    if match:
        return match.group(1)
    return _OCI_KEYS.get(re.split(r"[-:]", text.rsplit(":", 1)[-1])[0])


def _other(text: str) -> str | None:
    return re.sub(r"\s+", "-", text)


def _azure(text: str) -> str | None:
    compact = re.sub(r"[\s_\-().,]+", "", text)
    return azure_aliases().get(compact)


@cache
def azure_aliases() -> dict[str, str]:
    """Every known spelling of an Azure location (lower case, no blanks) and its region id."""
    names: dict[str, str] = {}
    variants: dict[str, set[str]] = {}
    for place in re.split(r"[|\n]", _AZURE_PLACES.strip()):
        country, direction, *number = place.split()
        tail = number[0] if number else ""
        first = country in _AZURE_DIRECTION_FIRST and f"{country} {direction}" not in _AZURE_EXCEPTIONS
        name = direction + country + tail if first else country + direction + tail
        names[name] = name
        for c in _AZURE_COUNTRIES[country]:
            for d in _AZURE_DIRECTIONS[direction]:
                for variant in (c + d + tail, d + c + tail):
                    variants.setdefault(variant, set()).add(name)
    aliases = {v: next(iter(found)) for v, found in variants.items() if len(found) == 1 and len(v) > 2}
    for name, cities in _AZURE_CITIES.items():
        aliases.update(dict.fromkeys(cities.split(), name))
    return aliases | names


_RULES = {"aws": _aws, "gcp": _gcp, "azure": _azure, "oci": _oci}
