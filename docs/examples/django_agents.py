"""A web service with Django that asks an agent, in views that wait. One file, settings and all.

Run it with ``PPIO_API_KEY=… python django_agents.py runserver``.
"""

from __future__ import annotations

import json
import sys
from functools import cache

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from sandbox_kernel.agents import BlockingAgentClient
from sandbox_kernel.errors import SandboxError, TemplateNotFoundError

AGENT = "echo-agent"

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["localhost", "testserver"], ROOT_URLCONF=__name__, SECRET_KEY="only for a try")
    django.setup()


@cache
def agents() -> BlockingAgentClient:
    """Return the client, one for all threads; it has an event loop of its own."""
    return BlockingAgentClient("ppio")


@require_POST
def ask(request: HttpRequest, user: str) -> HttpResponse:
    """Return the agent's answer; it remembers what this user said before."""
    try:
        answer = agents().invoke(AGENT, json.loads(request.body), session=user)
    except TemplateNotFoundError as exc:
        return JsonResponse({"error": str(exc)}, status=404)
    except SandboxError as exc:
        return JsonResponse({"error": str(exc)}, status=502)
    return JsonResponse({"answer": answer})


urlpatterns = [path("users/<user>/ask", ask)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
