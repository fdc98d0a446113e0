"""temporary"""
import sys, os
from dataclasses import dataclass
from collections.abc import Callable
from pathlib import Path
from headrace.deploy.processes import ChildProcess
@dataclass
class Infrastructure:
    bootstrap: str
    redis_url: str
    broker: str
    redis: str
    stop: Callable[[], None]
def start_infrastructure(home: Path, *, kafka: str | None = None, redis_url: str | None = None, wipe: bool = False, say: Callable[[str], None] = print) -> Infrastructure:
    sys.path.insert(0,'/tmp/hk')
    import kafkaplugin, shutil
    shutil.rmtree(home, ignore_errors=True); home.mkdir(parents=True)
    p,a,d=kafkaplugin.start_kafka()
    import redis
    r=ChildProcess(["redis-server","--port","16400","--bind","127.0.0.1","--save","","--appendonly","no"], home/"r.log")
    c=redis.Redis(port=16400)
    import time
    for _ in range(50):
        try: c.ping(); break
        except Exception: time.sleep(0.1)
    def stop() -> None:
        r.stop(); p.kill()
    return Infrastructure(a,"redis://127.0.0.1:16400/0","Kafka tmp","Redis tmp",stop)
