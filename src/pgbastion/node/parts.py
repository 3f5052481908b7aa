"""Makes the parts of a node out of its configuration."""

from dataclasses import replace

from pgbastion.config.model import Config, PostgresqlSection
from pgbastion.config.secrets import Secrets
from pgbastion.config.timings import PROFILES, Timings, smallest_lease_ms
from pgbastion.config.types import parts_of_conninfo
from pgbastion.config.watchdog import WatchdogMode, fits, least_unfed_s, unfed_s
from pgbastion.ha.loop import Pace
from pgbastion.model.cluster import Member, Policy
from pgbastion.model.ids import NO_MEMBER, NodeId
from pgbastion.model.profile import Profile
from pgbastion.model.views import Limits
from pgbastion.postgres.config_files import Secrets as Passwords
from pgbastion.postgres.guard_messages import WatchdogSetting
from pgbastion.postgres.instance import Bounds, Instance
from pgbastion.postgres.layout import PgIdentity, PgPaths, PgRoles, resolve_account


def own_member(config: Config) -> Member:
    """Return this node's member record, as its configuration says."""
    tags = config.tags
    return Member(
        member_id=NO_MEMBER,
        name=NodeId(config.node.name),
        host=config.node.address,
        raft_port=config.raft.bind_port,
        postgres_port=config.postgresql.port if config.postgresql else None,
        api_port=config.api.port,
        primary_port=config.proxy.primary_port,
        replica_port=config.proxy.replica_port,
        nofailover=tags.nofailover or tags.failover_priority == 0,
        nosync=tags.nosync,
        noloadbalance=tags.noloadbalance,
        failover_priority=tags.failover_priority,
        replica_weight=tags.replica_weight,
        api_tls=config.api.tls_cert is not None,
    )


def timing_limits(timings: Timings) -> Limits:
    """Return those bounds of decisions that these timings give."""
    return Limits(
        lease_ms=timings.lease_ms,
        stop_ms=timings.stop_ms,
        margin_ms=timings.margin_ms,
        evidence_max_ms=timings.evidence_max_ms,
        sync_silent_ms=timings.sync_silent_ms,
        lease_least_ms=smallest_lease_ms(timings),
    )


def limits_of(config: Config) -> Limits:
    """Return the bounds that decisions go by."""
    return replace(
        timing_limits(config.timings),
        restart_ms=config.failover.primary_restart_timeout,
        slots_ttl_ms=config.postgresql.member_slots_ttl if config.postgresql else 0,
    )


def policy_of(profile: Profile, *, revision: int = 0) -> Policy:
    """Return the policy of a cluster that goes by this profile."""
    timings = PROFILES[profile]
    return Policy(
        lease_ms=timings.lease_ms,
        drift_ppm=timings.drift_ppm,
        margin_ms=timings.margin_ms,
        revision=revision,
        profile=profile,
    )


def watchdog_of(config: Config) -> WatchdogSetting | None:
    """Return the hardware watchdog that the guard is to use; None: none."""
    wanted, timings = config.watchdog, config.timings
    if wanted.mode is WatchdogMode.OFF or not fits(timings):
        return None
    return WatchdogSetting(
        device=str(wanted.device),
        timeout_s=unfed_s(timings),
        least_s=least_unfed_s(timings),
        required=wanted.mode is WatchdogMode.REQUIRED,
    )


def pace_of(config: Config) -> Pace:
    """Return the rhythm of passes, reports and reads."""
    timings = config.timings
    return Pace(
        probe_ms=timings.probe_ms,
        renew_ms=timings.renew_ms,
        lease_ms=timings.lease_ms,
        lag_max_bytes=config.failover.max_lag_threshold,
        replica_lag_max_bytes=config.proxy.max_replica_lag,
        replica_fallback=config.proxy.replica_fallback == "primary",
    )


def bounds_of(timings: Timings) -> Bounds:
    """Return how long what is asked of the server may take."""
    return Bounds(
        look_s=(timings.evidence_max_ms - timings.probe_ms) / 1_000,
        cut_s=timings.evidence_max_ms / 1_000,
    )


def cut_timeout_ms(timings: Timings) -> int:
    """Return how long a node may take to answer a survey."""
    return 2 * timings.probe_ms + timings.deadline_ms


def build_instance(
    config: Config, section: PostgresqlSection, secrets: Secrets
) -> Instance:
    """Build the adapter of this node's PostgreSQL."""
    roles = PgRoles(
        superuser=section.superuser,
        replication=section.replication_user,
        rewind=section.rewind_user,
    )
    dsn = parts_of_conninfo(section.connect_dsn) if section.connect_dsn else {}
    return Instance(
        paths=PgPaths(
            bin_dir=section.bin_dir,
            data_dir=section.data_dir,
            config_dir=section.config_dir,
            run_dir=config.run_dir,
            socket_dir=section.socket_dir,
            state_dir=config.raft.data_dir,
            account=resolve_account(section.os_user),
        ),
        identity=PgIdentity(
            node=NodeId(config.node.name),
            listen=(section.listen,),
            port=section.port,
            roles=roles,
        ),
        secrets=Passwords(secrets.passwords),
        parameters=dict(section.parameters),
        hba=section.hba,
        bounds=bounds_of(config.timings),
        dbname=dsn.get("dbname", "postgres"),
        options=dsn.get("options", ""),
    )
