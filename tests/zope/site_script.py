"""Run by zconsole, which binds `app`: makes the Plone site, of the Classic UI's distribution, unless there is one."""

import transaction
from AccessControl.SecurityManagement import newSecurityManager
from Products.CMFPlone.factory import addPloneSite
from Testing.makerequest import makerequest

app = makerequest(app)  # noqa: F821
admin = app.acl_users.getUserById("admin")
newSecurityManager(None, admin.__of__(app.acl_users))
if "Plone" not in app.objectIds():
    site = addPloneSite(app, "Plone", title="A site", distribution_name="classic", setup_content=False)
    site.portal_setup.runAllImportStepsFromProfile("profile-plone.restapi:default")  # logins by token
    transaction.get().note("Plone site")
    transaction.commit()
app._p_jar.close()
